import os
import threading


def chatter():
    while True:
        os.write(1, b"still here\n")


def handle(payload):
    threading.Thread(target=chatter, daemon=True).start()
    return {"achieved": [], "tried": ["chatter"]}
