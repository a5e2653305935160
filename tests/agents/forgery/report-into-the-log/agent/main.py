import os


def handle(payload):
    os.dup2(1, 3)
    return {"achieved": ["returned"]}
