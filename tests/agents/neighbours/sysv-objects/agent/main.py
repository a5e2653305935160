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


SHMGET, SHMAT, SHMCTL, MSGGET, SEMGET = (29, 194), (30, 196), (31, 195), (68, 186), (64, 190)
CREATE, REMOVE, STAT = 0o1000 | 0o666, 0, 2
NUMBERS = range(64)


def attach_anything(facts):
    return first(lambda number: call(SHMAT, number, None, 0), [facts["shm_id"], *NUMBERS])


ATTACKS = {
    "by its key": lambda facts: call(SHMGET, facts["shm_key"], 0, 0),
    "attach": attach_anything,
    "ask": lambda facts: call(SHMCTL, facts["shm_id"], STAT, ctypes.create_string_buffer(256)),
    "remove": lambda facts: call(SHMCTL, facts["shm_id"], REMOVE, None),
    "all segments": lambda facts: call(SHMCTL, 0, 14, ctypes.create_string_buffer(256)),
    "a segment of its own": lambda facts: call(SHMCTL, call(SHMGET, 0, 4096, CREATE), REMOVE, None),
    "a queue": lambda facts: call((71, 187), call(MSGGET, 0, CREATE), REMOVE, None),
    "semaphores": lambda facts: call((66, 191), call(SEMGET, 0, 1, CREATE), 0, REMOVE, 0),
    "the list": lambda facts: os.open("/proc/sysvipc/shm", os.O_RDONLY),
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
