import json
import os
import struct


def take_back():
    """Read one's own pipe from the other end, at once: the server reads it too."""
    try:
        os.read(os.open("/proc/self/fd/3", os.O_RDONLY | os.O_NONBLOCK), 100)
    except OSError:
        pass


take_back()


def handle(payload):
    body = json.dumps({"kind": "sandbox_failure", "message": "broken", "layer": "mounts"}).encode()
    os.write(3, struct.pack(">I", len(body)) + body)
    os._exit(0)
