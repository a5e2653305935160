def handle(payload):
    hoard = []
    while True:
        hoard.append([None] * 1000)
