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


def on_canaries(action):
    return lambda facts: first(lambda pair: action(pair[0]), facts["canaries"])


def append(path):
    with open(path, "a") as file:
        file.write("hostile")


# What is answered with success may still not have been done.
def rights(path):
    os.chmod(path, 0o777)
    return os.stat(path).st_mode & 0o777 == 0o777


def times(path):
    os.utime(path, (1, 1))
    return os.stat(path).st_mtime == 1


ATTACKS = {
    "append": on_canaries(append),
    "truncate": on_canaries(lambda path: os.truncate(path, 1)),
    "truncate while reading": on_canaries(lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "open with access mode 3": on_canaries(lambda path: os.open(path, 3)),
    "chmod": on_canaries(rights),
    "utime": on_canaries(times),
    "chown": on_canaries(lambda path: os.chown(path, os.getuid(), os.getgid())),
    "attribute": on_canaries(lambda path: os.setxattr(path, "user.hostile", b"1")),
    "make a neighbour": on_canaries(
        lambda path: os.open(os.path.dirname(path) + "/hostile-file", os.O_CREAT | os.O_WRONLY)
    ),
    "make a folder": on_canaries(lambda path: os.mkdir(os.path.dirname(path) + "/hostile-folder")),
    "make a pipe": on_canaries(lambda path: os.mkfifo(os.path.dirname(path) + "/hostile-pipe")),
    "replace": on_canaries(lambda path: os.replace("mine", path)),
    "exchange": on_canaries(lambda path: os.rename(path, path + "-hostile-")),
    "delete": on_canaries(os.unlink),
}
open("mine", "w").close()


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
