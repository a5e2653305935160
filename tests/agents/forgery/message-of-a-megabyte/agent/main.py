import json
import os
import struct


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


def handle(payload):
    os.write(3, frame({"kind": "exception", "message": "\x1b[2J\r\n\u2028\u202e" * 30_000}))
    os._exit(0)
