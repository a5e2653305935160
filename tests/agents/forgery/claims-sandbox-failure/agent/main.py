import json
import os
import struct


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


def handle(payload):
    os.write(
        3, frame({"kind": "sandbox_failure", "message": "layer mounts: broken", "layer": "mounts"})
    )
    os._exit(0)
