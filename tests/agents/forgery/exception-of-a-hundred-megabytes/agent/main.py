def handle(payload):
    raise ValueError("x " * 20_000_000)
