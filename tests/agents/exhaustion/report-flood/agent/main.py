import os


def handle(payload):
    block = bytes(1 << 20)
    while True:
        os.write(3, block)
