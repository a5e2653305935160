import os
import struct


def handle(payload):
    body = b"[" * (1 << 20)
    os.write(3, struct.pack(">I", len(body)) + body)
    os._exit(0)
