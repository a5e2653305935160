import os

import takeover


def die(channel):
    for _birth in takeover.births(channel):
        os._exit(0)


takeover.after_import(die)


def handle(payload):
    return {"tried": ["die"], "achieved": []}
