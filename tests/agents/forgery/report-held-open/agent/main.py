import os
import time


def handle(payload):
    if os.fork() == 0:
        os.setsid()
        time.sleep(10**6)
    return {"achieved": [], "tried": ["held open"]}
