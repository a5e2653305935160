import os


def handle(payload):
    depth = 0
    try:
        while depth < 5000:
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
            depth += 1
    except OSError:
        pass
    return {"achieved": [], "tried": ["depth"], "depth": depth}
