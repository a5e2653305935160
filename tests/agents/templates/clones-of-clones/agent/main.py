import signal

import takeover


def be_many(birth):
    takeover.become_spare(birth)
    report, payload = takeover.take_job(birth)
    for _ in range(30):
        if takeover.clone() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
    takeover.answer(report, handle(payload))


takeover.after_import(lambda channel: takeover.serve(channel, be_many))


def handle(payload):
    return {"tried": ["clone"], "achieved": []}
