def handle(payload):
    last = None
    for number in range(50_000):
        error = ValueError(number)
        error.__cause__ = last
        last = error
    raise last
