import os

KEPT = []


def handle(payload):
    try:
        while True:
            KEPT.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    raise ValueError("the true reason")
