import os
import time

KINDS = {
    "file": lambda name: os.close(os.open(name, os.O_CREAT | os.O_WRONLY)),
    "folder": os.mkdir,
    "symbolic_link": lambda name: os.symlink("nowhere", name),
    "hard_link": lambda name: os.link("seed", name),
    "pipe": os.mkfifo,
}


def count_until_refused(kind, make):
    until, count = time.monotonic() + 0.4, 0
    try:
        while count < 20000 and time.monotonic() < until:
            make(f"{kind}{count}")
            count += 1
    except OSError:
        pass
    return count


def handle(payload):
    open("seed", "w").close()
    counts = {kind: count_until_refused(kind, make) for kind, make in KINDS.items()}
    achieved = ["more_than_8000"] if sum(counts.values()) > 8000 else []
    return {"achieved": achieved, "tried": list(KINDS), "counts": counts}
