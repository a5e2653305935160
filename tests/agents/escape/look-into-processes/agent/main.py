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


PARTS = ("environ", "maps", "mem", "cmdline", "exe", "stat", "status", "auxv", "syscall", "stack")
FOLDERS = ("fd", "root", "cwd", "task", "ns", "map_files", "fdinfo")


def look(which):
    def attack(facts):
        pid = facts.get(which, which)
        parts = [f"/proc/{pid}/{part}" for part in PARTS]
        folders = [f"/proc/{pid}/{folder}" for folder in FOLDERS]
        return first(lambda path: os.open(path, os.O_RDONLY), parts) or first(os.listdir, folders)

    return attack


ATTACKS = {
    "the server": look("server_pid"),
    "the zygote": look("zygote_pid"),
    "the neighbour": look("neighbour_pid"),
    "who started the server": look("test_pid"),
    "process 1": look(1),
    "the parent": lambda facts: look(os.getppid())(facts),
    "any": lambda facts: first(lambda pid: os.listdir(f"/proc/{pid}"), range(1, 5000)),
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
