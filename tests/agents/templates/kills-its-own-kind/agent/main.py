import os
import signal

import takeover


def kill_all(birth):
    takeover.become_spare(birth)
    report, payload = takeover.take_job(birth)
    for pid in [*range(1, 400), *(payload["facts"][n] for n in ("server_pid", "zygote_pid"))]:
        for send in (os.kill, os.killpg):
            try:
                send(pid, signal.SIGKILL)
            except OSError:
                pass
    os.kill(-1, signal.SIGKILL)
    takeover.answer(report, handle(payload))


takeover.after_import(lambda channel: takeover.serve(channel, kill_all))


def handle(payload):
    return {"tried": ["kill"], "achieved": []}
