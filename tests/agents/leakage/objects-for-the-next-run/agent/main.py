import ctypes
import os
import socket

KEY = 0x484F5354
CREATE = 0o1000 | 0o666
libc = ctypes.CDLL(None, use_errno=True)


def leave(name, make, find):
    """Tell whether it was there already, or can be made now."""
    return {f"find {name}": lambda facts: find() >= 0, f"make {name}": lambda facts: make() >= 0}


def key():
    return libc.syscall(
        248 if os.uname().machine == "x86_64" else 217, b"user", b"hostile", b"x", 1, -4
    )


def ask():
    return libc.syscall(
        249 if os.uname().machine == "x86_64" else 218, b"user", b"hostile", None, -4
    )


def named():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind("\0hostile-name")
        return 0


ATTACKS = {
    **leave("segment", lambda: libc.shmget(KEY, 4096, CREATE), lambda: libc.shmget(KEY, 0, 0)),
    **leave("queue", lambda: libc.msgget(KEY, CREATE), lambda: libc.msgget(KEY, 0)),
    **leave("semaphore", lambda: libc.semget(KEY, 1, CREATE), lambda: libc.semget(KEY, 0, 0)),
    **leave(
        "named queue",
        lambda: libc.mq_open(b"/hostile-queue", os.O_CREAT | os.O_RDWR, 0o666, None),
        lambda: libc.mq_open(b"/hostile-queue", os.O_RDONLY),
    ),
    **leave(
        "named memory",
        lambda: libc.shm_open(b"/hostile-memory", os.O_CREAT | os.O_RDWR, 0o666),
        lambda: libc.shm_open(b"/hostile-memory", os.O_RDONLY, 0),
    ),
    **leave("key", key, ask),
    "name": lambda facts: named() == 0,
}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
