import encodings
import glob
import importlib.util
import json
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


def writable(path):
    return os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


# Each takes back at once what it did: where a wall falls, it is somebody's own Python.
def make_file(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def rename(path):
    os.rename(path, path + ".hostile-")
    os.rename(path + ".hostile-", path)


def change_rights(path):
    os.chmod(path, os.stat(path).st_mode)
    return writable(path)


def libraries():
    return glob.glob("/lib*/*/libc.so*") + glob.glob("/lib/libc.so*")


FILES = [
    os.__file__,
    json.__file__,
    encodings.__file__,
    sys.executable,
    os.path.realpath(sys.executable),
]
ATTACKS = {
    "python's own files": lambda facts: first(writable, FILES),
    "its own program": lambda facts: writable("/proc/self/exe"),
    "compiled files": lambda facts: first(
        writable, [importlib.util.cache_from_source(m.__file__) for m in (os, json, encodings)]
    ),
    "a module beside them": lambda facts: first(
        lambda path: make_file(os.path.dirname(path) + "/hostile_module.py"), FILES
    ),
    "sitecustomize": lambda facts: first(
        lambda path: make_file(path + "/sitecustomize.py"), sys.path[1:]
    ),
    "the C library": lambda facts: first(writable, libraries()),
    "make them writable": lambda facts: first(change_rights, FILES),
    "rename": lambda facts: first(rename, FILES),
    "list of libraries": lambda facts: first(writable, ["/etc/ld.so.cache", "/etc/ld.so.preload"]),
    "the server's code": lambda facts: writable(facts["project"] + "/run.py"),
    "the server's modules": lambda facts: writable(facts["project"] + "/anymind_lite/__init__.py"),
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
