import os
import signal
import time


def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def handle(payload):
    for _ in range(5):
        if os.fork() == 0:
            daemon()
    return {"achieved": [], "tried": ["daemon"]}
