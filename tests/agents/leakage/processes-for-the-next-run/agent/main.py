import os
import signal
import subprocess
import sys
import time


def daemon(detach):
    try:
        pid = os.fork()
    except OSError:
        return
    if pid:
        return
    try:
        detach()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while True:
            time.sleep(1)
    finally:
        os._exit(0)


def twice():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid()


def own_group():
    os.setpgid(0, 0)


WAYS = {"plain": lambda: None, "session": os.setsid, "group": own_group, "twice": twice}


def others():
    """Every process that it sees but its own init."""
    found = []
    for pid in range(2, 2000):
        try:
            os.kill(pid, 0)
            found.append(pid)
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


def handle(payload):
    achieved = [f"process {pid}" for pid in others()]
    for detach in WAYS.values():
        daemon(detach)
    program = [sys.executable, "-c", "import time; time.sleep(1000)"]
    try:
        subprocess.Popen(program, start_new_session=True)
    except OSError:
        pass
    return {"tried": [*WAYS, "a program"], "achieved": achieved}
