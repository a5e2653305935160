import os


def handle(payload):
    os.dup2(os.open("report", os.O_CREAT | os.O_WRONLY), 3)
    return {"achieved": ["returned"]}
