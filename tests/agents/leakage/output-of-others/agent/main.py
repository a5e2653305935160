import array
import fcntl
import mmap
import os
import termios


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


def readable(fd):
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return False


def opened_again(path):
    """Its own pipes are its own business; what comes out of them is nothing that it printed."""
    return os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 100) or False


def pipes_of(who):
    return lambda facts: first(opened_again, [f"/proc/{facts[who]}/fd/{fd}" for fd in range(64)])


def holds_text(fd):
    found = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, found)
    return found[0] > 0


ATTACKS = {
    "the job": lambda facts: os.read(4, 100),
    "read": lambda facts: first(readable, (1, 2, 3)),
    "open again": lambda facts: first(opened_again, [f"/proc/self/fd/{fd}" for fd in (1, 2, 3)]),
    "of the neighbour": pipes_of("neighbour_pid"),
    "of the zygote": pipes_of("zygote_pid"),
    "of the server": pipes_of("server_pid"),
    "how much is there": lambda facts: first(holds_text, (0, 3)),
    "seek": lambda facts: first(lambda fd: os.lseek(fd, 0, os.SEEK_SET), (1, 2, 3)),
    "map": lambda facts: first(lambda fd: mmap.mmap(fd, 4096, prot=mmap.PROT_READ), (1, 2, 3)),
    "splice": lambda facts: first(lambda fd: os.splice(fd, os.pipe()[1], 100) or False, (1, 2, 3)),
    "make larger": lambda facts: first(lambda fd: fcntl.fcntl(fd, 1031, 1 << 20), (1, 2)),
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
