import takeover


def flood(birth):
    takeover.libc.prctl(4, 1, 0, 0, 0)
    while True:
        birth.send(takeover.HELLO * 65536)


takeover.after_import(lambda channel: takeover.serve(channel, flood))


def handle(payload):
    return {"tried": ["flood"], "achieved": []}
