import fcntl
import time


def handle(payload):
    until, count = time.monotonic() + 1.5, 0
    with open("locked", "wb") as file:
        try:
            while time.monotonic() < until:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * count)
                count += 1
        except OSError:
            pass
        achieved = ["a_million_locks"] if count > 1_000_000 else []
        return {"achieved": achieved, "tried": ["a_million_locks"], "count": count}
