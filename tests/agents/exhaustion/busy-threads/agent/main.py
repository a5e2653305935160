import hashlib
import threading


def burn():
    while True:
        hashlib.sha256(bytes(1 << 20)).digest()


def handle(payload):
    threads = [threading.Thread(target=burn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
