import os


def handle(payload):
    os.write(3, b"\xff\xff\xff\xff")
    os._exit(0)
