import os
import struct


def handle(payload):
    body = b'{"kind":"returned","result":{"a":1e999,"b":' + b"9" * 5000 + b"}}"
    os.write(3, struct.pack(">I", len(body)) + body)
    os._exit(0)
