import ctypes
import socket
import struct

SOL_SOCKET = 1
OPTIONS = {"filter": 26, "BPF": 50, "reuseport filter": 51, "reuseport BPF": 52}
CODE = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF))


def attach(option):
    def attack(facts):
        program = struct.pack("@HP", 1, ctypes.addressof(CODE))
        with socket.socketpair()[0] as one:
            one.setsockopt(SOL_SOCKET, option, program)
        return True

    return attack


def pose(facts):
    """Send as somebody else: the other side may trust it."""
    one, _ = socket.socketpair()
    someone = struct.pack("iII", facts["server_pid"], 0, 0)
    return one.sendmsg([b"x"], [(SOL_SOCKET, 2, someone)])


ATTACKS = {name: attach(number) for name, number in OPTIONS.items()}
ATTACKS["another's name"] = pose


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
