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


SETATTR, IOPRIO_SET = (314, 274), (251, 30)
REAL_TIME_DISK = 1 << 13


def deadline(facts):
    wanted = (ctypes.c_uint64 * 6)(48 | 6 << 32, 0, 0, 900_000_000, 1_000_000_000, 1_000_000_000)
    return call(SETATTR, 0, wanted, 0)


ATTACKS = {
    "nice": lambda facts: os.nice(-5),
    "priority": lambda facts: os.setpriority(os.PRIO_PROCESS, 0, -20),
    "priority of the user": lambda facts: os.setpriority(os.PRIO_USER, 0, -20),
    "first in, first out": lambda facts: os.sched_setscheduler(
        0, os.SCHED_FIFO, os.sched_param(50)
    ),
    "round robin": lambda facts: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
    "deadline": deadline,
    "disk": lambda facts: call(IOPRIO_SET, 1, 0, REAL_TIME_DISK),
    "lock memory": lambda facts: (
        call((151, 230), 3) if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 0 else False
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
