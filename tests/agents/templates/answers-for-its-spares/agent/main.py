import takeover


def answer(channel):
    for birth in takeover.births(channel):
        takeover.become_spare(birth)


takeover.after_import(answer)


def handle(payload):
    return {"tried": ["answer"], "achieved": []}
