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


SETATTR, IOPRIO_SET, PRLIMIT = (314, 274), (251, 30), (302, 261)
WHO_PROCESS, WHO_GROUP, WHO_USER, IDLE = 1, 2, 3, 3 << 13


def on(action):
    names = ("neighbour_pid", "neighbour_init_pid", "zygote_pid", "server_pid")
    return lambda facts: first(lambda name: action(facts[name]), names)


def unseen(action):
    """What may touch its own processes too tells nothing here: the neighbour notices for itself."""

    def attack(facts):
        action(facts)
        return False

    return attack


def everybody_of_the_user(facts):
    for user in (0, os.getuid()):
        os.setpriority(os.PRIO_USER, user, 1)
        call(IOPRIO_SET, WHO_USER, user, IDLE)


LIMIT = (ctypes.c_uint64 * 2)(1, 1)
ATTACKS = {
    "priority": on(lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19)),
    "priority of the group": on(lambda pid: os.setpriority(os.PRIO_PGRP, pid, 19)),
    "of all of the user": unseen(everybody_of_the_user),
    "processors": on(lambda pid: os.sched_setaffinity(pid, {0})),
    "policy": on(lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))),
    "parameters": on(lambda pid: os.sched_setparam(pid, os.sched_param(0))),
    "attributes": on(lambda pid: call(SETATTR, pid, (ctypes.c_uint32 * 12)(48, 5), 0)),
    "disk priority": on(lambda pid: call(IOPRIO_SET, WHO_PROCESS, pid, IDLE)),
    "disk priority of the group": on(lambda pid: call(IOPRIO_SET, WHO_GROUP, pid, IDLE)),
    "limits": on(lambda pid: call(PRLIMIT, pid, 7, LIMIT, None)),
    "read limits": on(lambda pid: call(PRLIMIT, pid, 7, None, (ctypes.c_uint64 * 2)())),
    "pages": on(
        lambda pid: call((256, 238), pid, 64, (ctypes.c_ulong * 1)(1), (ctypes.c_ulong * 1)(1))
    ),
    "control groups": lambda facts: first(
        lambda name: os.open(f"/sys/fs/cgroup/{name}", os.O_WRONLY),
        ("cgroup.procs", "cgroup.freeze"),
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
