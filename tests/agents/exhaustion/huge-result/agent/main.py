def handle(payload):
    return {"achieved": ["returned"], "text": "x" * (3 << 20)}
