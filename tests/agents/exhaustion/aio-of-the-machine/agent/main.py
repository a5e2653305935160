import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
COLUMN = 0 if platform.machine() == "x86_64" else 1
IO_SETUP = (206, 0)[COLUMN]


def handle(payload):
    context = ctypes.c_ulong(0)
    done = libc.syscall(IO_SETUP, 65536, ctypes.byref(context)) == 0
    return {"tried": ["io_setup"], "achieved": ["io_setup"] if done else []}
