import threading

LOCK = threading.Lock()


def handle(payload):
    LOCK.acquire()
    for _ in range(5):
        threading.Thread(target=LOCK.acquire).start()
    LOCK.acquire()
