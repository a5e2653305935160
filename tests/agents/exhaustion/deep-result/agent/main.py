def handle(payload):
    value = []
    for _ in range(100_000):
        value = [value]
    return {"achieved": ["returned"], "value": value}
