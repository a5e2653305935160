import contextlib
import os

NAMES = [
    b"\n" * 200,
    b"\xff\xfe" * 100,
    b"-rf *",
    b"~",
    b"\\" * 255,
    b"\x1b[2J",
    "é\u202e".encode(),
]


def handle(payload):
    for name in NAMES:
        os.mkdir(name)
        open(os.path.join(name, b"inside"), "w").close()
        os.mkfifo(os.path.join(name, b"pipe"))
        os.symlink(b"/", os.path.join(name, b"root"))
        os.symlink(b"loop", os.path.join(name, b"loop"))
    for name in NAMES:
        with contextlib.suppress(OSError):
            os.chmod(name, 0)
    with contextlib.suppress(OSError):
        os.chmod(".", 0)
    return {"achieved": [], "tried": [repr(name) for name in NAMES]}
