import gc
import importlib.util
import re
import socket
import sys

CANARY = re.compile(r"canary [0-9a-f]{32}")
NAMES = {"Zygote", "Supervisor", "Run", "Conversation", "Backend", "Settings"}


def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def objects_of(name):
    return any(type(one).__name__ == name for one in gc.get_objects())


def open_sockets(facts):
    return any(isinstance(one, socket.socket) and one.fileno() >= 0 for one in gc.get_objects())


def secret_text(facts):
    texts = [one for one in gc.get_objects() if isinstance(one, (dict, list, tuple))]
    return any(CANARY.search(repr(part)) for one in texts for part in strings_in(one))


def strings_in(one):
    parts = one.values() if isinstance(one, dict) else one
    return [part for part in list(parts) if isinstance(part, (str, bytes))]


ATTACKS = {
    "frames of the zygote": lambda facts: any(
        "zygote/main" in f.f_code.co_filename for f in frames()
    ),
    "sockets in frames": lambda facts: any(
        isinstance(one, socket.socket) and one.fileno() >= 0
        for frame in frames()
        for one in list(frame.f_locals.values())
    ),
    "objects of the server": lambda facts: any(objects_of(name) for name in NAMES),
    "open sockets": open_sockets,
    "modules": lambda facts: any(name.startswith("anymind") for name in sys.modules),
    "imports": lambda facts: bool(importlib.util.find_spec("anymind_lite")),
    "main": lambda facts: bool(
        [n for n in vars(sys.modules["__main__"]) if not n.startswith("__")]
    ),
    "secrets of others": secret_text,
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
