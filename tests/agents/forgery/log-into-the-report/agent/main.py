import os


def handle(payload):
    os.dup2(3, 1)
    print("hello")
    return {"achieved": ["returned"]}
