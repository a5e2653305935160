import takeover


def speak(channel):
    for word in (takeover.HELLO, takeover.WALLED, takeover.GO, b"\0"):
        channel.send(word)
    takeover.received(channel)


takeover.after_import(speak)


def handle(payload):
    return {"tried": ["speak"], "achieved": []}
