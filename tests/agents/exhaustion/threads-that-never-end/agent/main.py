import threading


def spin():
    while True:
        pass


def handle(payload):
    for _ in range(3):
        threading.Thread(target=spin).start()
    return {"achieved": [], "tried": ["never_ending"]}
