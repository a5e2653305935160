import ctypes
import os

X32 = 0x40000000


def handle(payload):
    if os.uname().machine != "x86_64":
        raise RuntimeError("there is no such table here")
    pid = ctypes.CDLL(None).syscall(X32 + 57)
    return {"achieved": ["fork"] if pid >= 0 else []}
