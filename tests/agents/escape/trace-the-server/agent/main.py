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


PTRACE, READ_VM, WRITE_VM = (101, 117), (310, 270), (311, 271)
PIDFD_OPEN, PIDFD_GETFD, KCMP, MADVISE = (434, 434), (438, 438), (312, 272), (440, 440)
ATTACH, SEIZE = 16, 0x4206
buffer = ctypes.create_string_buffer(4096)


def everybody(action):
    def attack(facts):
        pids = [facts[name] for name in ("server_pid", "zygote_pid", "neighbour_pid", "test_pid")]
        return first(action, [*pids, os.getppid(), 1])

    return attack


def transfer(numbers, pid):
    mine = Piece(ctypes.addressof(buffer), 8)
    # Children of one zygote share their addresses.
    theirs = Piece(id(os), 8)
    return call(numbers, pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)


def take_descriptors(pid):
    pidfd = call(PIDFD_OPEN, pid, 0)
    return first(lambda number: call(PIDFD_GETFD, pidfd, number, 0), range(64))


ATTACKS = {
    "seize": everybody(lambda pid: call(PTRACE, SEIZE, pid, 0, 0)),
    "attach": everybody(lambda pid: call(PTRACE, ATTACH, pid, 0, 0)),
    "read memory": everybody(lambda pid: transfer(READ_VM, pid)),
    "write memory": everybody(lambda pid: transfer(WRITE_VM, pid)),
    "take a descriptor": everybody(take_descriptors),
    "compare": everybody(lambda pid: call(KCMP, os.getpid(), pid, 1, 0, 0)),
    "be traced by anybody": lambda facts: call((157, 167), 0x59616D61, -1, 0, 0, 0),
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
