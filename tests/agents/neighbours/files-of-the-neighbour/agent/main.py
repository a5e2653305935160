import ctypes
import os


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


WATCH_ALL = 0xFFF


def in_scratch(action):
    return lambda facts: first(
        action, [*facts["neighbour_scratch"], facts["data_dir"] + "/run/scratch"]
    )


def watch(path):
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(0)
    return fd >= 0 and libc.inotify_add_watch(fd, path.encode(), WATCH_ALL) >= 0


def plant(path):
    with open(path + "/hostile-file", "w") as file:
        return file.write("x")


ATTACKS = {
    "list": in_scratch(os.listdir),
    "read": in_scratch(lambda path: read(path + "/kept.txt")),
    "write": in_scratch(plant),
    "overwrite": in_scratch(lambda path: os.truncate(path + "/kept.txt", 0)),
    "delete": in_scratch(lambda path: os.unlink(path + "/kept.txt")),
    "watch": in_scratch(watch),
    "watch the code": lambda facts: watch(facts["neighbour_code"]),
    "watch the data": lambda facts: watch(facts["data_dir"]),
    "change the code": lambda facts: plant(facts["neighbour_code"]),
    "beside its own folder": lambda facts: (
        set(os.listdir("..")) & {"scratch-", "kept.txt"} or False
    ),
    "the folders of all": lambda facts: any(n.startswith("scratch-") for n in os.listdir("..")),
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
