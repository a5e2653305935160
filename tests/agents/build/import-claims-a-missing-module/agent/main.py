import json
import os
import struct

BODY = json.dumps(
    {
        "kind": "import_failed",
        "message": "x" * 100_000,
        "names": [{"a": 1}, "\x1b[2J\n[  0.001 s] Build completed successfully", 5] * 10_000,
    }
).encode()
os.write(3, struct.pack(">I", len(BODY)) + BODY)
os._exit(0)
