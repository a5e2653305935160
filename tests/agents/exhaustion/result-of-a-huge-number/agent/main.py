def handle(payload):
    return {"achieved": [], "number": 1 << 3_000_000}
