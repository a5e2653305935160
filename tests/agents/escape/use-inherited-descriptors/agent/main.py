import os
import socket
import stat


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


OWN = range(4)  # nothing, the log twice, the report


def left_open(facts):
    return first(os.fstat, range(4, 4096))


def is_socket(fd):
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def receive(fd):
    with socket.socket(fileno=os.dup(fd)) as found:
        found.settimeout(0)
        return found.recv(100)


def folder_behind(fd):
    return stat.S_ISDIR(os.fstat(fd).st_mode) and os.listdir(fd)


ATTACKS = {
    "a descriptor that was left open": left_open,
    "a socket among its own": lambda facts: any(is_socket(fd) for fd in OWN),
    "a folder among its own": lambda facts: first(folder_behind, OWN),
    "read what others print": lambda facts: first(lambda fd: os.read(fd, 1), (1, 2, 3)),
    "read from stdin": lambda facts: os.read(0, 100) or False,
    "receive": lambda facts: first(receive, OWN),
    "a terminal": lambda facts: first(os.ttyname, OWN),
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
