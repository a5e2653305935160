import ctypes
import fcntl
import os
import socket
import struct


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


def read(path):
    """Read a little of a file; False where there is nothing."""
    with open(path, "rb") as file:
        return file.read(64) or False


LIST, ADDRESS, HARDWARE, STAMP = 0x8912, 0x8915, 0x8927, 0x8906


def ask(request):
    def attack(facts):
        with socket.socketpair()[0] as one:
            answer = fcntl.ioctl(one, request, struct.pack("16s24x", b"lo"))
        return bool(answer[16:].strip(b"\0"))

    return attack


def list_all(facts):
    room = bytearray(4096)
    address = ctypes.addressof((ctypes.c_char * 4096).from_buffer(room))
    with socket.socketpair()[0] as one:
        answer = fcntl.ioctl(one, LIST, struct.pack("iL", 4096, address))
    return struct.unpack("iL", answer)[0] > 0


def names(facts):
    return [name for _, name in socket.if_nameindex() if name != "lo"] or False


ATTACKS = {
    "list": list_all,
    "address": ask(ADDRESS),
    "hardware address": ask(HARDWARE),
    "names": names,
    "name of one": lambda facts: socket.if_indextoname(2),
    "files": lambda facts: first(
        read, ["/proc/net/dev", "/proc/net/tcp", "/proc/net/unix", "/proc/net/arp"]
    ),
    "folders": lambda facts: os.listdir("/sys/class/net"),
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
