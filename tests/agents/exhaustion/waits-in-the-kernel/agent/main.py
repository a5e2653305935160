import os


def handle(payload):
    os.mkfifo("pipe")
    return {"achieved": ["read"], "text": open("pipe").read()}
