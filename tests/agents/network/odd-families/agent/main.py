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


FAMILIES = {
    "vsock": 40,
    "alg": 38,
    "bluetooth": 31,
    "can": 29,
    "rds": 21,
    "tipc": 30,
    "xdp": 44,
    "kcm": 41,
    "smc": 43,
    "qipcrtr": 42,
    "ieee802154": 36,
    "phonet": 35,
    "nfc": 39,
    "rxrpc": 33,
    "x25": 9,
    "ax25": 3,
    "llc": 26,
    "key": 15,
    "mctp": 45,
}
KINDS = (1, 2, 3, 4, 5)


def open_any(family):
    return lambda facts: first(lambda kind: socket.socket(family, kind, 0), KINDS)


def cipher(facts):
    with socket.socket(38, socket.SOCK_SEQPACKET) as one:
        one.bind(("hash", "sha256"))
    return True


ATTACKS = {name: open_any(number) for name, number in FAMILIES.items()} | {"cipher": cipher}
ATTACKS["any family"] = lambda facts: first(
    lambda number: first(lambda kind: socket.socket(number, kind, 0), KINDS), range(47)
)


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
