import time

import takeover


def speak(channel):
    for word in (takeover.HELLO, takeover.WALLED, takeover.GO, b"\0"):
        channel.send(word)
    time.sleep(10**6)


takeover.after_import(speak)


def handle(payload):
    return {"tried": ["speak"], "achieved": []}
