import ctypes
import os


def read(path):
    """Read a little of a file; False where there is nothing."""
    with open(path, "rb") as file:
        return file.read(64) or False


CREATE = os.O_CREAT | os.O_RDWR
libc = ctypes.CDLL(None, use_errno=True)


def queue(facts):
    name = f"/{facts['mark']}".encode()
    fd = libc.mq_open(name, CREATE, 0o666, None)
    return fd >= 0 and libc.mq_unlink(name) + 1


def semaphore(facts):
    libc.sem_open.restype = ctypes.c_void_p
    name = f"/{facts['mark']}".encode()
    return bool(libc.sem_open(name, CREATE, 0o666, 1)) and libc.sem_unlink(name) + 1


def python_memory(facts):
    try:
        from multiprocessing import shared_memory
    except ImportError:
        return False
    found = shared_memory.SharedMemory(facts["mark"], create=True, size=64)
    found.unlink()
    return True


ATTACKS = {
    "the canary": lambda facts: read(facts["dev_shm"]),
    "change the canary": lambda facts: os.open(facts["dev_shm"], os.O_WRONLY),
    "open by name": lambda facts: (
        libc.shm_open(facts["dev_shm"].rpartition("/")[2].encode(), os.O_RDWR, 0) >= 0
    ),
    "make": lambda facts: libc.shm_open(f"/{facts['mark']}".encode(), CREATE, 0o666) >= 0,
    "queue": queue,
    "semaphore": semaphore,
    "python's": python_memory,
    "list": lambda facts: os.listdir("/dev/shm"),
    "queues": lambda facts: os.listdir("/dev/mqueue"),
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
