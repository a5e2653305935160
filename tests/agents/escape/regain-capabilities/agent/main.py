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


PRCTL, CAPSET, CAPGET = (157, 167), (126, 91), (125, 90)
VERSION = 0x20080522
IDS = (0, 1, 1001, 61000, 65534)
MINE = set(os.getresuid()) | set(os.getresgid())
OTHERS = [number for number in IDS if number not in MINE]


def set_all(facts):
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    return call(CAPSET, header, (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))


def has_any(facts):
    header, found = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    call(CAPGET, header, found)
    return any(found)


ATTACKS = {
    "has capabilities": has_any,
    "take all": set_all,
    "setuid": lambda facts: first(os.setuid, OTHERS),
    "seteuid": lambda facts: first(os.seteuid, OTHERS),
    "setresuid": lambda facts: first(lambda n: os.setresuid(-1, n, n), OTHERS),
    "setgid": lambda facts: first(os.setgid, OTHERS),
    "setgroups": lambda facts: first(lambda n: os.setgroups([n]), [*OTHERS, *MINE]),
    "fsuid": lambda facts: (call((122, 151), 0), call((122, 151), -1) == 0)[1],
    "ambient": lambda facts: first(lambda n: call(PRCTL, 47, 2, n, 0, 0), range(41)),
    "securebits": lambda facts: (
        call(PRCTL, 28, 0, 0, 0, 0) if os.getuid() == 0 else call(PRCTL, 28, 2, 0, 0, 0)
    ),
    "take no_new_privs back": lambda facts: call(PRCTL, 38, 0, 0, 0, 0),
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
