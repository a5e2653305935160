def handle(payload):
    value = []
    for _ in range(101):
        value = [value]
    return {"value": value}
