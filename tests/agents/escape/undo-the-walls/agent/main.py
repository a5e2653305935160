import ctypes
import os
import resource

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


PRCTL = (157, 167)
NAMES = ("AS", "DATA", "CORE", "CPU", "FSIZE", "NOFILE")


def raise_limit(name):
    kind = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY:
        return True
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except ValueError:  # as Python calls a refusal
        return False
    return True


def core_dumps(facts):
    call(PRCTL, 4, 1, 0, 0, 0)
    return call(PRCTL, 3, 0, 0, 0, 0) == 1


ATTACKS = {
    "limits": lambda facts: first(raise_limit, NAMES),
    "be dumpable": core_dumps,
    "outlive the parent": lambda facts: call(PRCTL, 1, 0, 0, 0, 0),
    "adopt processes": lambda facts: call(PRCTL, 36, 1, 0, 0, 0),
    "no filter": lambda facts: call(PRCTL, 22, 0, 0, 0, 0),
    "a filter with a listener": lambda facts: call((317, 277), 1, 8, None),
    "a filter that allows": lambda facts: call((317, 277), 1, 0, ctypes.create_string_buffer(16)),
    "share a core": lambda facts: call(PRCTL, 62, 1, 0, 0, 0),
    "no address randomisation": lambda facts: call((135, 92), 0x0040000),
    "everything executable": lambda facts: call((135, 92), 0x0400000),
    "another table of segments": lambda facts: call(
        (154, -1), 1, ctypes.create_string_buffer(16), 16
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
