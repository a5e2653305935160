import os
import signal


def handle(payload):
    os.kill(os.getpid(), signal.SIGXCPU)
