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


ADD, REQUEST, KEYCTL = (248, 217), (249, 218), (250, 219)
RINGS = (-1, -2, -3, -4, -5)  # of the thread, process, session, user, user's session


ATTACKS = {
    "rings": lambda facts: first(lambda ring: call(KEYCTL, 0, ring, 1, 0, 0), RINGS),
    "join a session": lambda facts: call(KEYCTL, 1, None, 0, 0, 0),
    "add": lambda facts: first(
        lambda ring: call(ADD, b"user", b"hostile-key", b"x", 1, ring), RINGS
    ),
    "ask": lambda facts: call(REQUEST, b"user", b"hostile-key", None, -4),
    "read": lambda facts: first(lambda key: call(KEYCTL, 11, key, None, 0, 0), range(1, 2000)),
    "persistent": lambda facts: call(KEYCTL, 22, -1, -4, 0, 0),
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
