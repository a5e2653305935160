import os
import time


def spin(facts):
    """Leave orphans, sessions and groups behind; each end is a signal for somebody."""
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.fork()
            os._exit(0)
        os.waitpid(pid, 0)
    return False


ATTACKS = {"orphans": spin}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
