import json
import os
import struct


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


SUCCESS = frame({"kind": "returned", "result": {"achieved": ["forged"]}})


def handle(payload):
    os.write(3, SUCCESS)
    raise ValueError("failed after all")
