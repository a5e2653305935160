import sys


def handle(payload):
    sys.set_int_max_str_digits(0)
    return {"achieved": [], "number": 1 << 50_000}
