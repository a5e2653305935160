import os
import signal


def handle(payload):
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)
