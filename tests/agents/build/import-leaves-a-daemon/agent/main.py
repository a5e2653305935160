import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(10**6)


def handle(payload):
    return {"achieved": [], "tried": ["call"]}
