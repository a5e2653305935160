import ctypes
import errno
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


def refused_as_such(numbers, *arguments):
    """Tell whether the kernel got as far as looking at nonsense that harms nobody."""
    try:
        call(numbers, *arguments)
    except OSError as exc:
        return exc.errno not in (errno.EPERM, errno.ENOSYS, errno.EACCES)
    return True


NAME = os.uname().nodename.encode()
ATTACKS = {
    "host name": lambda facts: call((170, 161), NAME, len(NAME)),
    "domain name": lambda facts: call((171, 162), b"(none)", 6),
    "clock": lambda facts: refused_as_such((164, 170), None, ctypes.create_string_buffer(8)),
    "clock rate": lambda facts: refused_as_such(
        (159, 171), (ctypes.c_uint32 * 64)(1 << 14, 0, 9**9)
    ),
    "reboot": lambda facts: refused_as_such((169, 142), 1, 2, 3, None),
    "module": lambda facts: refused_as_such((175, 105), b"no module", 9, b""),
    "another kernel": lambda facts: refused_as_such((246, 104), 0, 99, None, 0),
    "swap on": lambda facts: refused_as_such((167, 224), b"/nowhere", 0),
    "swap off": lambda facts: refused_as_such((168, 225), b"/nowhere"),
    "accounting": lambda facts: refused_as_such((163, 89), b"/nowhere"),
    "ports": lambda facts: call((173, -1), 0x80, 1, 1),
    "all ports": lambda facts: call((172, -1), 3),
    "settings of the kernel": lambda facts: first(
        lambda path: os.open(path, os.O_WRONLY),
        ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj"],
    ),
    "control groups": lambda facts: first(os.listdir, ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
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
