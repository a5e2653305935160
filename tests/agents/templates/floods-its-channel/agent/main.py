import takeover


def flood(channel):
    channel.send(takeover.READY)
    while True:
        channel.send(takeover.READY * 65536)


takeover.after_import(flood)


def handle(payload):
    return {"tried": ["flood"], "achieved": []}
