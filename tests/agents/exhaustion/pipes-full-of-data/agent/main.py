import fcntl
import os
import socket

F_SETPIPE_SZ = 1031


def fill(descriptor, write):
    os.set_blocking(descriptor, False)
    total = 0
    try:
        while True:
            total += write(descriptor, bytes(1 << 16))
    except BlockingIOError:
        return total


def fill_pipes():
    total, kept = 0, []
    try:
        while True:
            kept.append(os.pipe())
            try:
                fcntl.fcntl(kept[-1][1], F_SETPIPE_SZ, 1 << 20)
            except PermissionError:
                pass
            total += fill(kept[-1][1], os.write)
    except OSError:
        pass
    for pair in kept:
        os.close(pair[0])
        os.close(pair[1])
    return total


def fill_sockets():
    total, kept = 0, []
    try:
        while True:
            kept.append(socket.socketpair())
            for one in kept[-1]:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
                total += fill(one.fileno(), os.write)
    except OSError:
        return total


def handle(payload):
    taken = {"pipes": fill_pipes(), "sockets": fill_sockets()}
    achieved = [name for name, size in taken.items() if size > 64 << 20]
    return {"achieved": achieved, "tried": list(taken), "taken": taken}
