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


OWN_GROUP = os.getpgid(0)


def groups(facts):
    names = ("neighbour_pid", "neighbour_init_pid", "zygote_pid", "server_pid", "test_pid")
    return first(lambda name: os.killpg(facts[name], 0), names)


ATTACKS = {
    # Signal 0 asks for leave alone: who has it could as well send another.
    "everybody": lambda facts: os.kill(-1, 0),
    "groups": groups,
    "any group": lambda facts: first(
        lambda pid: os.killpg(pid, 0), [pid for pid in range(3, 3000) if pid != OWN_GROUP]
    ),
    "the parent": lambda facts: os.kill(os.getppid(), 0) if os.getppid() else False,
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
