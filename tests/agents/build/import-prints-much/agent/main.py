for number in range(10_000):
    print("x" * 1000)


def handle(payload):
    return {"achieved": [], "tried": ["call"]}
