import os
import uuid


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


def read(path):
    """Read a little of a file; False where there is nothing."""
    with open(path, "rb") as file:
        return file.read(64) or False


ATTACKS = {
    "ids": lambda facts: first(read, ["/etc/machine-id", "/var/lib/dbus/machine-id"]),
    "boot": lambda facts: read("/proc/sys/kernel/random/boot_id"),
    "maker": lambda facts: first(
        read, ["/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/sys_vendor"]
    ),
    "hardware address": lambda facts: uuid.getnode() >> 40 & 1 == 0,  # made up ones have this bit
    "disks": lambda facts: first(os.listdir, ["/dev/disk/by-uuid", "/sys/block"]),
    "mounts": lambda facts: first(
        read, ["/proc/mounts", "/proc/self/mountinfo", "/etc/fstab", "/etc/mtab"]
    ),
    "kernel's command line": lambda facts: read("/proc/cmdline"),
    "container": lambda facts: first(read, ["/.dockerenv", "/run/.containerenv"]),
    "system": lambda facts: first(read, ["/etc/issue", "/proc/1/cgroup", "/proc/self/cgroup"]),
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
