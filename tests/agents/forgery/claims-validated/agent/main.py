import json
import os
import struct


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


def handle(payload):
    os.write(3, frame({"kind": "validated", "result": {"achieved": ["forged"]}}))
    os._exit(0)
