def handle(payload):
    value = "x" * 1000
    for _ in range(9):
        value = [value] * 10
    return {"achieved": ["returned"], "value": value}
