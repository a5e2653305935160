import os
import struct


def handle(payload):
    body = b'{"kind":"returned","result":{"a":"\xff\xfe"}}'
    os.write(3, struct.pack(">I", len(body)) + body)
    os._exit(0)
