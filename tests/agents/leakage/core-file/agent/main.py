import ctypes
import os
import resource
import signal


def handle(payload):
    held = b"hostile-secret" * 1000
    os.chdir(os.environ["TMPDIR"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGQUIT)
    return {"tried": [len(held)], "achieved": ["lived"]}
