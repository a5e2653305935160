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


QUESTION = (
    bytes.fromhex("abcd01000001000000000000") + b"\x07hostile\x07example\x03com\x00\x00\x01\x00\x01"
)


def resolve(action):
    def attack(facts):
        try:
            return bool(action())
        except socket.gaierror:
            return False

    return attack


def ask(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(QUESTION, (server, 53))


def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.connect(path)
    return True


DAEMONS = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/avahi-daemon/socket",
]
ATTACKS = {
    "getaddrinfo": resolve(lambda: socket.getaddrinfo("hostile.example.com", 80)),
    "gethostbyname": resolve(lambda: socket.gethostbyname("example.com")),
    "localhost": resolve(lambda: socket.create_connection(("localhost", 53), timeout=0.5)),
    "by hand": lambda facts: first(ask, ["127.0.0.53", "127.0.0.1", "8.8.8.8"]),
    "resolvers": lambda facts: first(connect, DAEMONS),
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
