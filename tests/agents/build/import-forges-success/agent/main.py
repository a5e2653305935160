import json
import os
import struct

BODY = json.dumps({"kind": "validated"}).encode()
os.write(3, struct.pack(">I", len(BODY)) + BODY)
os._exit(0)
