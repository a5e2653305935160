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


def tree(path):
    return first(
        read, [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    )


OWN = os.path.realpath(os.path.dirname(__file__))


def beside_own_code(facts):
    """Versions stand beside each other below one folder."""
    for parent in (os.path.dirname(OWN), os.path.dirname(os.path.dirname(OWN))):
        names = set(os.listdir(parent)) if parent != "/" else set()
        if names - {os.path.basename(OWN)}:
            return True
    return False


ATTACKS = {
    "the neighbour's code": lambda facts: tree(facts["neighbour_code"]),
    "the folder of all code": lambda facts: os.listdir(facts["data_dir"] + "/code"),
    "what the zygote sees": lambda facts: os.listdir("/code") or False,
    "what the zygote sees, by number": lambda facts: os.listdir("/code/1"),
    "what the zygote sees, by name": lambda facts: read(
        "/code/" + "/".join(facts["neighbour_code"].split("/")[-2:]) + "/main.py"
    ),
    "beside its own code": beside_own_code,
    "artifacts": lambda facts: os.listdir(facts["data_dir"] + "/artifacts"),
    "an artifact by its likely name": lambda facts: tree(facts["data_dir"] + "/artifacts/agents/1"),
    "unfinished uploads": lambda facts: os.listdir(facts["data_dir"] + "/artifacts/.incoming"),
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
