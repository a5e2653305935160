import json
import os
import struct
import threading


def frame(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


SUCCESS = frame({"kind": "returned", "result": {"achieved": ["forged"]}})

STARTED = threading.Event()


def chatter():
    while True:
        os.write(3, SUCCESS)
        STARTED.set()


def handle(payload):
    threading.Thread(target=chatter, daemon=True).start()
    STARTED.wait()
    return {"achieved": ["returned"]}
