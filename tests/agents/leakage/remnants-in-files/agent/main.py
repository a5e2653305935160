import ctypes
import os

SIZE = 8 << 20


def contents(fill):
    def attack(facts):
        fd = os.open("file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        fill(fd)
        found = os.pread(fd, SIZE, 0)
        os.close(fd)
        return any(found)

    return attack


def unwritten(flag):
    libc = ctypes.CDLL(None)
    return lambda fd: libc.fallocate(fd, flag, ctypes.c_long(0), ctypes.c_long(SIZE))


def shrink(fd):
    os.ftruncate(fd, SIZE)
    os.ftruncate(fd, 0)
    os.ftruncate(fd, SIZE)


ATTACKS = {
    "hole": contents(lambda fd: os.ftruncate(fd, SIZE)),
    "reserved": contents(lambda fd: os.posix_fallocate(fd, 0, SIZE)),
    "not written": contents(unwritten(0)),
    "behind the end": contents(unwritten(1)),
    "shrunk": contents(shrink),
    "files of the run before": lambda facts: set(os.listdir(".")) - {"file"} or False,
    "deleted files": lambda facts: os.listdir("/proc/self/map_files"),
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
