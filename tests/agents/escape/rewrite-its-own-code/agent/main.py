import os
import sys

OWN = os.path.dirname(os.path.abspath(__file__))


def write(name):
    def attack(facts):
        path = os.path.join(OWN, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab") as file:
            file.write(b"\n# hostile\n")
        return True

    return attack


def found(facts):
    """Tell whether the run before has left something."""
    with open(__file__, "rb") as file:
        return file.read().endswith(b"\n# hostile\n") or len(os.listdir(OWN)) > 2


# What is answered with success may still not have been done.
def rights(facts):
    os.chmod(__file__, 0o777)
    return os.stat(__file__).st_mode & 0o777 == 0o777


def times(facts):
    os.utime(__file__, (1, 1))
    return os.stat(__file__).st_mtime == 1


ATTACKS = {
    "was changed": found,
    "its own file": write("main.py"),
    "by the server's path": lambda facts: open(facts["own_code"] + "/main.py", "ab").close(),
    "a new module": write("json.py"),
    "compiled code": write(
        f"__pycache__/main.cpython-{sys.version_info[0]}{sys.version_info[1]}.pyc"
    ),
    "the manifest": write("anymind.yaml"),
    "rights": rights,
    "times": times,
    "delete": lambda facts: os.unlink(__file__),
    "replace": lambda facts: os.replace(write_scratch(), __file__),
    "link": lambda facts: os.symlink("/etc/passwd", OWN + "/hostile-link"),
}


def write_scratch():
    with open("other.py", "w") as file:
        file.write("handle = dict\n")
    return "other.py"


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
