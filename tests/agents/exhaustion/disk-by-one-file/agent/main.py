import os

LIMIT = 32 << 20


def write(file):
    while True:
        file.write(bytes(1 << 20))


def at_the_end(file):
    file.seek(LIMIT + 1)
    file.write(b"x")


ATTACKS = {
    "write": write,
    "truncate": lambda file: file.truncate(1 << 40),
    "fallocate": lambda file: os.posix_fallocate(file.fileno(), 0, 1 << 40),
    "seek": at_the_end,
    "pwrite": lambda file: os.pwrite(file.fileno(), b"x", 1 << 40),
}


def handle(payload):
    achieved = []
    for name, attack in ATTACKS.items():
        with open(name, "wb", buffering=0) as file:
            try:
                attack(file)
            except OSError:
                pass
        if os.stat(name).st_size > LIMIT:
            achieved.append(name)
        os.unlink(name)
    return {"achieved": achieved, "tried": list(ATTACKS)}
