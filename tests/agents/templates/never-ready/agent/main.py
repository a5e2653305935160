import time

import takeover

takeover.after_import(lambda channel: time.sleep(10**6))


def handle(payload):
    return {"tried": ["never ready"], "achieved": []}
