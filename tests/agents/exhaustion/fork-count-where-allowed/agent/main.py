import os
import signal


def handle(payload):
    count = 0
    try:
        while count < 200:
            if os.fork() == 0:
                signal.pause()
            count += 1
    except OSError:
        pass
    achieved = ["more_than_16_processes"] if count >= 16 else []
    return {"achieved": achieved, "tried": ["more_than_16_processes"], "count": count}
