import takeover

held = []


def serve(channel):
    for birth in takeover.births(channel):
        held.append(birth)
        if takeover.clone() == 0:
            takeover.become_spare(birth)
            takeover.os._exit(0)


takeover.after_import(serve)


def handle(payload):
    return {"tried": ["die unseen"], "achieved": []}
