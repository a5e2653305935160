import os


def handle(payload):
    os.abort()
