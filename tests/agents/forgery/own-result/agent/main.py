import json
import os
import struct


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


OWN = {
    "kind": "returned",
    "result": {"achieved": [], "tried": ["forgery"]},
    "status": 9,
    "cpu_ms": -1,
    "timed_out": True,
    "layers": [],
}


def handle(payload):
    os.write(3, frame(OWN))
    os._exit(0)
