import sys


def handle(payload):
    sys.setrecursionlimit(2**31 - 1)
    nested = []
    for _ in range(2_000_000):
        nested = [nested]
    return {"achieved": ["repr"], "text": repr(nested)}
