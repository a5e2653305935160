import signal

import takeover


def take(channel):
    for birth in takeover.births(channel):
        if takeover.clone() == 0:
            takeover.become_spare(birth)
            while True:
                signal.pause()
        report, payload = takeover.take_job(birth)
        takeover.answer(report, handle(payload))


takeover.after_import(take)


def handle(payload):
    return {"tried": ["take"], "achieved": []}
