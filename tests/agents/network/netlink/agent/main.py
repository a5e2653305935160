import socket


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


NETLINK = 16
KINDS = {
    "routes": 0,
    "sockets": 4,
    "firewall": 12,
    "audit": 9,
    "events": 15,
    "generic": 16,
    "crypto": 21,
}


def open_kind(number):
    return lambda facts: first(lambda kind: socket.socket(NETLINK, kind, number), (2, 3))


ATTACKS = {name: open_kind(number) for name, number in KINDS.items()}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
