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


MOUNT, UMOUNT, PIVOT, CHROOT = (165, 40), (166, 39), (155, 41), (161, 51)
FSOPEN, OPEN_TREE, MOVE, SETATTR, FSPICK = (
    (430,) * 2,
    (428,) * 2,
    (429,) * 2,
    (442,) * 2,
    (433,) * 2,
)
BIND, REMOUNT, REC, PRIVATE, DETACH, CLONE_TREE = 4096, 32, 16384, 1 << 18, 2, 1
HERE = os.getcwd().encode()
CODE = os.path.dirname(os.path.abspath(__file__)).encode()


def mount(source, target, kind, flags):
    answer = call(MOUNT, source, target, kind, flags, None)
    if kind:
        call(UMOUNT, target, DETACH)
    return answer


os.makedirs("there")
ATTACKS = {
    "tmpfs": lambda facts: mount(b"hostile", b"there", b"tmpfs", 0),
    "proc": lambda facts: mount(b"proc", b"there", b"proc", 0),
    "sysfs": lambda facts: mount(b"sysfs", b"there", b"sysfs", 0),
    "cgroup": lambda facts: mount(b"cgroup", b"there", b"cgroup2", 0),
    "overlay": lambda facts: mount(b"overlay", b"there", b"overlay", 0),
    "write to the code": lambda facts: mount(b"none", CODE, None, REMOUNT | BIND),
    "write to the root": lambda facts: mount(b"none", b"/", None, REMOUNT | BIND),
    "programs in scratch": lambda facts: mount(b"none", HERE, None, REMOUNT | BIND),
    "take the code away": lambda facts: call(UMOUNT, CODE, DETACH),
    "take scratch away": lambda facts: call(UMOUNT, HERE, DETACH),
    "take the root away": lambda facts: call(UMOUNT, b"/", DETACH),
    "another root": lambda facts: call(PIVOT, b".", b"."),
    "chroot": lambda facts: call(CHROOT, b"there"),
    "a new file system": lambda facts: call(FSOPEN, b"tmpfs", 0),
    "pick a file system": lambda facts: call(FSPICK, -100, b"/", 0),
    "copy a tree": lambda facts: call(OPEN_TREE, -100, b"/", CLONE_TREE),
    "move a mount": lambda facts: call(MOVE, -100, b".", -100, b"there", 0),
    "attributes": lambda facts: call(SETATTR, -100, b"/", 0, ctypes.create_string_buffer(32), 32),
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
