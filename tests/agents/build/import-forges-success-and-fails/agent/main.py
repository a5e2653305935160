import json
import os
import struct

BODY = json.dumps({"kind": "validated"}).encode()
os.write(3, struct.pack(">I", len(BODY)) + BODY)
raise ValueError("failed after all")
