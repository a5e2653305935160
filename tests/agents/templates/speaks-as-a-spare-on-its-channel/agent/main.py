import time

import takeover


def speak(channel):
    channel.send(takeover.HELLO + takeover.WALLED + takeover.GO + b"\0")
    time.sleep(10**6)


takeover.after_import(speak)


def handle(payload):
    return {"tried": ["speak"], "achieved": []}
