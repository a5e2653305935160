import time


def handle(payload):
    time.sleep(10**8)
