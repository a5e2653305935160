import os


def read(path):
    """Read a little of a file; False where there is nothing."""
    with open(path, "rb") as file:
        return file.read(64) or False


def through(prefix):
    return lambda facts: read(prefix.format(**facts) + facts["secret_key"])


def by_descriptor(facts):
    """A folder may be found without the right to list it."""
    folder = os.open(facts["data_dir"], os.O_PATH)
    return os.read(os.open("secret.key", os.O_RDONLY, dir_fd=folder), 64) or False


UP = "/.." * 40
ATTACKS = {
    "by its path": through(""),
    "by the root of its own process": through("/proc/self/root"),
    "by the root of the server": through("/proc/{server_pid}/root"),
    "by the root of process 1": through("/proc/1/root"),
    "by the folder of the server": through("/proc/{server_pid}/cwd" + UP),
    "by dots from the working folder": through("." + UP),
    "by dots from the code": through(os.path.dirname(os.path.abspath(__file__)) + UP),
    "in the data folder by a descriptor": by_descriptor,
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
