import os


def handle(payload):
    try:
        while True:
            if os.fork() == 0:
                while True:
                    os.fork()
            return {"achieved": ["fork"], "tried": ["fork"]}
    except PermissionError:
        return {"achieved": [], "tried": ["fork"]}
