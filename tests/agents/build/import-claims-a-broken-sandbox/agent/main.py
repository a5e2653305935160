import json
import os
import struct

BODY = json.dumps({"kind": "sandbox_failure", "message": "broken", "layer": "mounts"}).encode()
os.write(3, struct.pack(">I", len(BODY)) + BODY)
os._exit(0)
