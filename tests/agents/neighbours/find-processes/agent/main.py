import os


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


NUMBERS = list(range(2, 40_000))


def exists(pid):
    try:
        os.kill(pid, 0)
    except PermissionError:
        return knows_permission
    return True


def is_told_apart():
    """Whether a refusal differs between numbers: a filter refuses all of them alike."""
    try:
        os.kill(2**22 - 1, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        return True
    return True


knows_permission = False
ATTACKS = {
    "signal": lambda facts: first(exists, NUMBERS),
    "known ones": lambda facts: first(
        exists, [facts[n] for n in ("server_pid", "zygote_pid", "test_pid")]
    ),
    "sessions": lambda facts: first(os.getsid, NUMBERS[:5000]),
    "groups": lambda facts: first(os.getpgid, NUMBERS[:5000]),
    "schedulers": lambda facts: first(os.sched_getscheduler, NUMBERS[:5000]),
    "folders": lambda facts: first(lambda pid: os.listdir(f"/proc/{pid}"), NUMBERS[:5000]),
    "descriptors": lambda facts: first(os.pidfd_open, NUMBERS[:5000]),
}


def handle(payload):
    global knows_permission
    # Not at the import, which may have been in another process.
    knows_permission = is_told_apart()
    for own in {os.getpid(), os.getppid()} & {*NUMBERS}:
        NUMBERS.remove(own)
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
