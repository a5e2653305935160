import atexit
import gc
import sys
import threading
import weakref


class Undying:
    def __del__(self):
        KEPT.append(Undying())
        spin()


def spin(*_):
    while True:
        pass


KEPT = []


def handle(payload):
    KEPT.append(Undying())
    atexit.register(spin)
    weakref.finalize(KEPT[0], spin)
    threading._register_atexit(spin)
    sys.excepthook = sys.unraisablehook = threading.excepthook = spin
    gc.set_debug(gc.DEBUG_SAVEALL)
    return {"achieved": [], "tried": ["atexit", "finalizer", "hooks"]}
