import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def handle(payload):
    fd = libc.inotify_init1(0o4000)
    folder = os.path.join(os.path.dirname(os.__file__), "__pycache__")
    watching = fd >= 0 and libc.inotify_add_watch(fd, folder.encode(), 0x20) >= 0
    return {"tried": ["watch"], "achieved": ["watch"] if watching else []}
