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


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


buffer = ctypes.create_string_buffer(4096)


def on(action):
    return lambda facts: first(action, [facts["neighbour_pid"], facts["neighbour_init_pid"], 1])


def memory(numbers):
    # The heap is where it is in all children of one zygote.
    mine, theirs = Piece(ctypes.addressof(buffer), 64), Piece(id(os.environ), 64)
    return on(lambda pid: call(numbers, pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))


ATTACKS = {
    "seize": on(lambda pid: call((101, 117), 0x4206, pid, 0, 0)),
    "attach": on(lambda pid: call((101, 117), 16, pid, 0, 0)),
    "read": memory((310, 270)),
    "write": memory((311, 271)),
    "advise": on(lambda pid: call((440, 440), pid, ctypes.byref(Piece(0, 4096)), 1, 21, 0)),
    "release": on(lambda pid: call((448, 448), call((434, 434), pid, 0), 0)),
    "move pages": on(
        lambda pid: call((279, 239), pid, 1, (ctypes.c_void_p * 1)(id(os)), None, buffer, 0)
    ),
    "descriptors": on(lambda pid: call((438, 438), call((434, 434), pid, 0), 1, 0)),
    "compare": on(lambda pid: call((312, 272), pid, os.getpid(), 1, 0, 0)),
    "memory by path": on(lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR)),
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
