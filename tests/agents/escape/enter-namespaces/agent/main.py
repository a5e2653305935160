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


UNSHARE, SETNS, CLONE, CLONE3, FORK_SIGNAL = (272, 97), (308, 268), (56, 220), (435, 435), 17
KINDS = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "process": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
    "user and mount": 0x10020000,
}


def clone(flags):
    pid = call(CLONE, flags | FORK_SIGNAL, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3(flags):
    arguments = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, FORK_SIGNAL)
    pid = call(CLONE3, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def join(pid):
    for name in ("user", "mnt", "net", "pid"):
        call(SETNS, os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0)


def attack_of(action, flags):
    return lambda facts: action(flags)


ATTACKS = {
    f"{way}: {kind}": attack_of(action, flags)
    for kind, flags in KINDS.items()
    for way, action in (("clone", clone), ("clone3", clone3))
    if flags != 0x80
}
ATTACKS["join the server's"] = lambda facts: join(facts["server_pid"])
ATTACKS["join by pidfd"] = lambda facts: call(SETNS, call((434, 434), 1, 0), KINDS["mount"])
ATTACKS |= {f"unshare: {k}": attack_of(lambda f: call(UNSHARE, f), v) for k, v in KINDS.items()}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
