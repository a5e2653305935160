import takeover


def be_early(birth):
    takeover.become_spare(birth)
    made = handle(None)
    report, _payload = takeover.take_job(birth)
    takeover.answer(report, made)


takeover.after_import(lambda channel: takeover.serve(channel, be_early))


def handle(payload):
    return {"tried": ["work"], "achieved": []}
