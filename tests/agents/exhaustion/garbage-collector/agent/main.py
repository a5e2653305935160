import gc


def spin(phase, info):
    while True:
        pass


def handle(payload):
    gc.callbacks.append(spin)
    gc.set_threshold(1)
    return {"achieved": [], "values": [[] for _ in range(1000)]}
