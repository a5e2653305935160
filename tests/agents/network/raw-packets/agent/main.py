import os
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


RAW, PACKET, ICMP = socket.SOCK_RAW, 17, 1


ATTACKS = {
    "IP": lambda facts: socket.socket(socket.AF_INET, RAW, 255),
    "ICMP": lambda facts: socket.socket(socket.AF_INET, RAW, ICMP),
    "ICMP, IPv6": lambda facts: socket.socket(socket.AF_INET6, RAW, 58),
    "ping": lambda facts: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, ICMP),
    "frames": lambda facts: socket.socket(PACKET, RAW, 0x0300),
    "cooked frames": lambda facts: socket.socket(PACKET, socket.SOCK_DGRAM, 0x0300),
    "packets": lambda facts: socket.socket(PACKET, 10, 0x0300),
    "tunnel": lambda facts: os.open("/dev/net/tun", os.O_RDWR),
    "tap": lambda facts: first(lambda n: os.open(f"/dev/tap{n}", os.O_RDWR), range(16)),
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
