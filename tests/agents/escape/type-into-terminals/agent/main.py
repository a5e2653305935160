import fcntl
import os


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


TIOCSTI, TIOCLINUX, TIOCSCTTY = 0x5412, 0x541C, 0x540E


def on_streams(request, argument):
    def attack(facts):
        return first(lambda fd: fcntl.ioctl(fd, request, argument), range(4))

    return attack


def new_terminal(facts):
    first_end, other_end = os.openpty()
    fcntl.ioctl(other_end, TIOCSCTTY, 0)
    return fcntl.ioctl(other_end, TIOCSTI, b"x")


ATTACKS = {
    "type": on_streams(TIOCSTI, b"x"),
    "paste": on_streams(TIOCLINUX, b"\x03"),
    "take over": on_streams(TIOCSCTTY, 1),
    "the terminal of the session": lambda facts: os.open("/dev/tty", os.O_RDWR),
    "a terminal of its own": new_terminal,
    "every terminal": lambda facts: first(lambda n: os.open(f"/dev/pts/{n}", os.O_RDWR), range(64)),
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
