import ctypes


def handle(payload):
    return ctypes.string_at(0)
