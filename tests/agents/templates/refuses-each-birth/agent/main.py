import takeover


def refuse(channel):
    for birth in takeover.births(channel):
        birth.close()


takeover.after_import(refuse)


def handle(payload):
    return {"tried": ["refuse"], "achieved": []}
