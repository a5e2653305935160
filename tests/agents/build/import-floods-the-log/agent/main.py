for _ in range(100):
    print("x" * (1 << 20))


def handle(payload):
    return {"achieved": [], "tried": ["call"]}
