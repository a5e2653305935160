import os


def handle(payload):
    os.write(3, b"\0\0")
    os._exit(0)
