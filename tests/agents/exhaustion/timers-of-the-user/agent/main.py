import ctypes


def handle(payload):
    libc = ctypes.CDLL(None, use_errno=True)
    timer, count = ctypes.c_void_p(), 0
    while count < 5000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0:
        count += 1
    achieved = ["5000_timers"] if count >= 5000 else []
    return {"achieved": achieved, "tried": ["5000_timers"], "count": count}
