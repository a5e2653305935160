import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def machine(facts):
    """Uptime, three loads, memory, and at last the number of processes (sysinfo(2))."""
    found = (ctypes.c_ulong * 32)()
    if libc.sysinfo(found) != 0:
        raise OSError(ctypes.get_errno(), "sysinfo")
    return any(found[1:4]) or found[10] & 0xFFFF > 10


ATTACKS = {
    "the machine": machine,
    "load": lambda facts: any(os.getloadavg()),
    "processes so far": lambda facts: os.getpid() > 20,
    "load by path": lambda facts: os.open("/proc/loadavg", os.O_RDONLY),
    "switches": lambda facts: os.open("/proc/stat", os.O_RDONLY),
    "pressure": lambda facts: os.open("/proc/pressure/cpu", os.O_RDONLY),
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
