import itertools
import os
import shutil
import stat
import subprocess
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


FOLDERS = (
    "/bin",
    "/usr/bin",
    "/sbin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/libexec",
    "/usr/local/bin",
    "/opt",
)
KNOWN = ["su", "sudo", "mount", "umount", "passwd", "ping", "newgrp", "chsh", "pkexec", "newuidmap"]


def run(path):
    """Tell whether a program starts at all."""
    done = subprocess.run([path, "--version"], capture_output=True, timeout=2)
    return done.returncode == 0


def set_uid_files():
    for folder in FOLDERS:
        for top, _, names in itertools.islice(os.walk(folder), 100):
            for name in names[:500]:
                path = os.path.join(top, name)
                info = os.stat(path) if os.path.exists(path) else None
                if (
                    info
                    and stat.S_ISREG(info.st_mode)
                    and info.st_mode & (stat.S_ISUID | stat.S_ISGID)
                ):
                    yield path


def make_one(facts):
    shutil.copy(sys.executable, "hostile-program")
    os.chmod("hostile-program", 0o6755)
    return run("./hostile-program")


ATTACKS = {
    "those that are known": lambda facts: first(
        run, [f"{f}/{n}" for f in FOLDERS[:4] for n in KNOWN]
    ),
    "those that are found": lambda facts: first(run, set_uid_files()),
    "one of its own": make_one,
    "a shell": lambda facts: first(run, ["/bin/sh", "/bin/bash", "/bin/busybox", "/usr/bin/env"]),
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
