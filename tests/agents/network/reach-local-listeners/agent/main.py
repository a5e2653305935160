import socket

TCP, MPTCP, SCTP = 6, 262, 132
FASTOPEN = 0x20000000


def connect(kind, protocol):
    def attack(facts):
        with socket.socket(socket.AF_INET, kind, protocol) as one:
            one.settimeout(0.5)
            one.connect(("127.0.0.1", facts["tcp_port"]))
        return True

    return attack


def fast_open(facts):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(0.5)
        return one.sendto(b"hostile", FASTOPEN, ("127.0.0.1", facts["tcp_port"]))


def datagram(facts):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(b"hostile", ("127.0.0.1", facts["udp_port"]))


def without_waiting(facts):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(0)
        return one.connect_ex(("127.0.0.1", facts["tcp_port"])) in (0, 115)


ATTACKS = {
    "TCP": connect(socket.SOCK_STREAM, TCP),
    "MPTCP": connect(socket.SOCK_STREAM, MPTCP),
    "SCTP": connect(socket.SOCK_STREAM, SCTP),
    "SCTP packets": connect(socket.SOCK_SEQPACKET, SCTP),
    "fast open": fast_open,
    "UDP": datagram,
    "UDP, connected": connect(socket.SOCK_DGRAM, 17),
    "UDP-Lite": connect(socket.SOCK_DGRAM, 136),
    "without waiting": without_waiting,
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
