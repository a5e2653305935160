def handle(payload):
    while True:
        pass
