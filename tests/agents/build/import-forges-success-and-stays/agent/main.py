import json
import os
import struct
import time

BODY = json.dumps({"kind": "validated"}).encode()
os.write(3, struct.pack(">I", len(BODY)) + BODY)
time.sleep(10**6)
