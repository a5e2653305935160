def handle(payload):
    return {
        "achieved": [],
        "tried": ["width"],
        "keys": {f"{number:x}": 0 for number in range(80_000)},
    }
