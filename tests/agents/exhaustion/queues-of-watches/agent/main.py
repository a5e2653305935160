import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def handle(payload):
    queues = [fd for _ in range(60) if (fd := libc.inotify_init1(0o4000)) >= 0]
    for fd in queues:
        libc.inotify_add_watch(fd, b".", 0xFFF)
    for number in range(1000):
        os.mkdir(f"{number:0255}")
        os.rmdir(f"{number:0255}")
    return {"tried": ["queues"], "achieved": ["queues"] if queues else []}
