import socket


def connect(family, kind, address):
    def attack(facts):
        with socket.socket(family, kind) as one:
            one.settimeout(0.5)
            one.connect(address)
            one.send(b"hostile")
        return True

    return attack


STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
ATTACKS = {
    "TCP": connect(socket.AF_INET, STREAM, ("1.1.1.1", 443)),
    "TCP, IPv6": connect(socket.AF_INET6, STREAM, ("2606:4700:4700::1111", 443)),
    "UDP": connect(socket.AF_INET, DATAGRAM, ("8.8.8.8", 53)),
    "UDP, IPv6": connect(socket.AF_INET6, DATAGRAM, ("2001:4860:4860::8888", 53)),
    # Cloud machines hand out their keys there.
    "metadata": connect(socket.AF_INET, STREAM, ("169.254.169.254", 80)),
    "everybody nearby": connect(socket.AF_INET, DATAGRAM, ("224.0.0.251", 5353)),
    "a socket at all": lambda facts: socket.socket(socket.AF_INET, STREAM),
    "a socket at all, IPv6": lambda facts: socket.socket(socket.AF_INET6, STREAM),
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
