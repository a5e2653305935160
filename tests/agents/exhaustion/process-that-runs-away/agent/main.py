import os


def run_away():
    while True:
        os.setsid()
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            pass


def handle(payload):
    for _ in range(4):
        if os.fork() == 0:
            run_away()
    return {"achieved": [], "tried": ["running_away"]}
