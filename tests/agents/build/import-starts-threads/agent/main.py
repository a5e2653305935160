import threading
import time


def chatter():
    while True:
        time.sleep(0.001)
        print("still here")


for _ in range(3):
    threading.Thread(target=chatter).start()


def handle(payload):
    return {"achieved": [], "tried": ["call"]}
