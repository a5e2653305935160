def handle(payload):
    hoard = []
    while True:
        hoard.append(b"x" * (1 << 20))
