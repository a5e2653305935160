import os


def handle(payload):
    os._exit(0)
