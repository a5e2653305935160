import ctypes


def handle(payload):
    answer = ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 41), 2, 1, 0)
    return {"tried": ["x32 socket"], "achieved": [f"answered {answer}"]}
