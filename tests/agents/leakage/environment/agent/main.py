import ctypes
import os

OWN = {"HOME", "LOGNAME", "USER", "TMPDIR", "PATH", "LANG", "PYTHONUNBUFFERED"}
OWN |= {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
libc = ctypes.CDLL(None)


def c_strings(facts):
    table = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    names, index = set(), 0
    while table and table[index]:
        names.add(table[index].split(b"=")[0].decode())
        index += 1
    return names - OWN or False


def stack(facts):
    """The first environment of a program stays above its stack, whatever it forgets later."""
    top = ctypes.c_void_p.in_dll(libc, "__libc_stack_end").value
    end, start = os.pipe()
    found = b""
    while len(found) < 1 << 18:
        try:  # the kernel tells what may be read, without a crash
            count = libc.write(
                start, ctypes.c_void_p(top + len(found)), 4096 - (top + len(found)) % 4096
            )
        except OSError:
            break
        if count <= 0:
            break
        found += os.read(end, count)
    return b"HOSTILE_SECRET" in found or b"SECRET_KEY=" in found or b"canary " in found


ATTACKS = {
    "variables": lambda facts: set(os.environ) - OWN or False,
    "of the C library": c_strings,
    "on the stack": stack,
    "by path": lambda facts: os.open("/proc/self/environ", os.O_RDONLY),
    "of the parent": lambda facts: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
    "of the server": lambda facts: os.open(f"/proc/{facts['server_pid']}/environ", os.O_RDONLY),
    "what is set": lambda facts: os.environ.get("HOSTILE_SECRET_IN_ENVIRONMENT") is not None,
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
