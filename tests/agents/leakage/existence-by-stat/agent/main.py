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


def of(*names):
    return lambda facts: first(os.stat, [facts[name] for name in names])


ATTACKS = {
    "the server's files": of("secret_key", "database", "data_dir", "lock_file"),
    "others' code": of("neighbour_code"),
    "the project": of("project", "public_dir"),
    "processes": lambda facts: first(lambda pid: os.stat(f"/proc/{pid}"), range(3, 5000)),
    "the server's process": lambda facts: os.stat(f"/proc/{facts['server_pid']}"),
    "whose they are": lambda facts: os.stat(facts["data_dir"]).st_uid >= 0,
    "how full the disk is": lambda facts: os.statvfs(facts["data_dir"]),
    "what kind of machine": lambda facts: first(os.stat, ["/.dockerenv", "/run/systemd", "/sys"]),
    "links": lambda facts: first(os.readlink, ["/proc/self/exe", "/proc/self", "/etc/mtab"]),
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
