import time

import takeover

if takeover.is_template():
    takeover.os.write(takeover.CHANNEL, takeover.READY)
    time.sleep(10**6)


def handle(payload):
    return {"tried": ["speak"], "achieved": []}
