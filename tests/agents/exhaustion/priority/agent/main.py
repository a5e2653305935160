import ctypes
import os

IOPRIO_SET = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
REAL_TIME = 1 << 13


def io_priority():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(IOPRIO_SET, 1, 0, REAL_TIME) != 0:
        raise OSError(ctypes.get_errno(), "refused")


def scheduler(policy):
    os.sched_setscheduler(0, policy, os.sched_param(1))


RAISE = {
    "nice": lambda: os.nice(-5),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
    "fifo": lambda: scheduler(os.SCHED_FIFO),
    "round_robin": lambda: scheduler(os.SCHED_RR),
    "io_priority": io_priority,
}
# Where the run has its own processes these reach nobody else: the neighbour tells whether it is so.
LOWER = {
    "of_the_neighbour": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "of_the_user": lambda pid: os.setpriority(os.PRIO_USER, 0, 19),
    "of_everybody": lambda pid: [os.setpriority(os.PRIO_PROCESS, one, 19) for one in range(1, 9)],
    "processors": lambda pid: os.sched_setaffinity(pid, {0}),
    "idle": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
}


def succeeds(attack, *arguments):
    try:
        attack(*arguments)
    except OSError:
        return False
    return True


def handle(payload):
    pid = payload["facts"]["neighbour_pid"]
    achieved = [name for name, attack in RAISE.items() if succeeds(attack)]
    lowered = [name for name, attack in LOWER.items() if succeeds(attack, pid)]
    achieved += [name for name in lowered if name in ("of_the_neighbour", "processors", "idle")]
    return {"achieved": achieved, "tried": [*RAISE, *LOWER], "lowered": lowered}
