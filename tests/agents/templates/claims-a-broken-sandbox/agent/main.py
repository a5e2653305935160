import json
import os
import struct

import takeover


def claim(birth):
    takeover.become_spare(birth)
    report, _payload = takeover.take_job(birth)
    body = json.dumps({"kind": "sandbox_failure", "message": "layer files: broken"}).encode()
    os.write(report, struct.pack(">I", len(body)) + body)


takeover.after_import(lambda channel: takeover.serve(channel, claim))


def handle(payload):
    return {"tried": ["claim"], "achieved": []}
