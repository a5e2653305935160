import ctypes
import os
import time

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


def on(action):
    names = ("neighbour_pid", "neighbour_init_pid", "zygote_pid", "server_pid", "test_pid")
    return lambda facts: first(lambda name: action(facts[name]), names)


def clock_of(pid):
    return time.clock_gettime(~pid << 3 | 2)


ATTACKS = {
    "processor time": on(clock_of),
    "resolution": on(lambda pid: time.clock_getres(~pid << 3 | 2)),
    "group": on(os.getpgid),
    "session": on(os.getsid),
    "priority": on(lambda pid: os.getpriority(os.PRIO_PROCESS, pid)),
    "processors": on(os.sched_getaffinity),
    "policy": on(os.sched_getscheduler),
    "parameters": on(os.sched_getparam),
    "interval": on(os.sched_rr_get_interval),
    "disk priority": on(lambda pid: call((252, 31), 1, pid)),
    "attributes": on(lambda pid: call((315, 275), pid, ctypes.create_string_buffer(64), 64, 0)),
    "robust list": on(
        lambda pid: call((274, 100), pid, (ctypes.c_uint64 * 1)(), (ctypes.c_uint64 * 1)())
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
