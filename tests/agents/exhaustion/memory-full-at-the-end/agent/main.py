HOARD = []


def handle(payload):
    for size in (1 << 20, 1 << 12, 64):
        try:
            while True:
                HOARD.append(bytearray(size))
        except MemoryError:
            pass
    return {"achieved": [], "tried": ["a"], "text": HOARD[0].hex() * 100}
