import signal

import takeover


def stay(birth):
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    takeover.become_spare(birth)
    report, payload = takeover.take_job(birth)
    takeover.answer(report, handle(payload))
    while True:
        pass


takeover.after_import(lambda channel: takeover.serve(channel, stay))


def handle(payload):
    return {"tried": ["stay"], "achieved": []}
