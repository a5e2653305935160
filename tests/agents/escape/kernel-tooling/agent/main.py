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


def bpf_map(facts):
    return call((321, 280), 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)


def bpf_program(facts):
    code = ctypes.create_string_buffer(bytes.fromhex("b7000000000000009500000000000000"))
    words = (ctypes.c_uint64 * 16)(1 | 2 << 32, ctypes.addressof(code))
    return call((321, 280), 5, words, 128)


def perf(facts):
    event = (ctypes.c_uint64 * 16)(1 | 128 << 32, 0, 0, 0, 0, 0b1100000)
    return call((298, 241), event, 0, -1, -1, 0)


def watch_everything(facts):
    fd = call((300, 262), 0x4, os.O_RDONLY)
    return call((301, 263), fd, 0x10 | 0x1, 0x20, -100, b"/")


ATTACKS = {
    "BPF map": bpf_map,
    "BPF program": bpf_program,
    "perf": perf,
    "page faults": lambda facts: call((323, 282), 1),
    "fanotify": watch_everything,
    "fanotify without rights": lambda facts: call((300, 262), 0x200, os.O_RDONLY),
    "secret memory": lambda facts: call((447, 447), 0),
    "memory file": lambda facts: call((319, 279), b"hostile-memory", 0),
    "kernel log": lambda facts: call((103, 116), 3, ctypes.create_string_buffer(64), 64),
    "kernel log size": lambda facts: call((103, 116), 10, None, 0),
    "quotas": lambda facts: call((179, 60), 0x80000100, None, 0, None),
    "cookies": lambda facts: call((212, 18), 1, ctypes.create_string_buffer(64), 64),
    "mounts": lambda facts: call(
        (458, 458), (ctypes.c_uint64 * 4)(32, 2**64 - 1), (ctypes.c_uint64 * 8)(), 8, 0
    ),
    "a call of tomorrow": lambda facts: call((600, 600), 0),
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
