import contextlib
import ctypes
import os
import select
import socket

LIBC = ctypes.CDLL(None, use_errno=True)


def from_c(call, *arguments):
    descriptor = getattr(LIBC, call)(*arguments)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), call)
    return descriptor


MASK = (ctypes.c_uint64 * 16)()
KINDS = {
    "open": lambda: os.open(os.devnull, os.O_RDONLY),
    "dup": lambda: os.dup(0),
    "pipe": os.pipe,
    "epoll": select.epoll,
    "eventfd": lambda: from_c("eventfd", 0, 0),
    "timerfd": lambda: from_c("timerfd_create", 1, 0),
    "signalfd": lambda: from_c("signalfd", -1, ctypes.byref(MASK), 0),
    "inotify": lambda: from_c("inotify_init1", 0),
    "socketpair": socket.socketpair,
    "file": lambda: open("file", "w"),
}


def count_until_refused(make):
    with contextlib.ExitStack() as kept:
        count = 0
        try:
            while count < 1000:
                keep(kept, make())
                count += 1
        except OSError:
            pass
        return count


def keep(kept, made):
    for one in made if isinstance(made, tuple) else (made,):
        kept.callback(os.close, one) if isinstance(one, int) else kept.callback(one.close)


def handle(payload):
    counts = {kind: count_until_refused(make) for kind, make in KINDS.items()}
    achieved = [kind for kind, count in counts.items() if count > 64]
    return {"achieved": achieved, "tried": list(KINDS), "counts": counts}
