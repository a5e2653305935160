import takeover

kept = []
takeover.after_import(lambda channel: kept.extend(takeover.births(channel)))


def handle(payload):
    return {"tried": ["never clones"], "achieved": []}
