def handle(payload):
    print("x" * (40 << 20))
    return {"achieved": ["printed"]}
