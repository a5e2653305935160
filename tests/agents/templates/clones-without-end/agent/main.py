import signal

import takeover


def clone(channel):
    channel.send(takeover.READY)
    while True:
        if takeover.clone() == 0:
            signal.pause()


takeover.after_import(clone)


def handle(payload):
    return {"tried": ["clone"], "achieved": []}
