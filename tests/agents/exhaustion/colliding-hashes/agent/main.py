import sys


def handle(payload):
    modulus = sys.hash_info.modulus
    keys = [number * modulus for number in range(1, 100_001)]
    return {"achieved": ["filled"], "count": len(dict.fromkeys(keys))}
