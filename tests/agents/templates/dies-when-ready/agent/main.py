import takeover

takeover.after_import(lambda channel: channel.send(takeover.READY))


def handle(payload):
    return {"tried": ["die"], "achieved": []}
