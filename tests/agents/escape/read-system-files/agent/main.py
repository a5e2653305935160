import os
import sys


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


def holds_host_users(path):
    with open(path) as file:
        return any(line.startswith(("root:", "daemon:")) for line in file)


def strangers_in(folder):
    """A Python that is installed in a home shows the folders above it, and those alone."""
    parts = [
        os.path.realpath(sys.prefix),
        os.path.realpath(sys.base_prefix),
        os.path.realpath(os.__file__),
    ]
    shown = {part[len(folder) :].split("/")[1] for part in parts if part.startswith(folder + "/")}
    return bool(set(os.listdir(folder)) - shown)


ATTACKS = {
    "shadow": lambda facts: read("/etc/shadow"),
    "users": lambda facts: holds_host_users("/etc/passwd"),
    "groups": lambda facts: holds_host_users("/etc/group"),
    "ssh keys": lambda facts: first(
        os.listdir, ["/etc/ssh", "/root/.ssh", facts["home"] + "/.ssh"]
    ),
    "homes": lambda facts: first(strangers_in, ["/root", "/home", facts["home"]]),
    "logs": lambda facts: first(os.listdir, ["/var/log", "/run/log"]),
    "machine": lambda facts: first(read, ["/etc/machine-id", "/etc/hostname", "/etc/hosts"]),
    "name servers": lambda facts: read("/etc/resolv.conf"),
    "temporary files": lambda facts: first(os.listdir, ["/tmp", "/var/tmp", "/run", "/dev/shm"]),
    "kernel": lambda facts: first(read, ["/proc/version", "/proc/kcore", "/proc/kallsyms"]),
    "system": lambda facts: first(os.listdir, ["/proc", "/sys", "/boot", "/mnt", "/srv"]),
    "project": lambda facts: os.listdir(facts["project"]),
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
