import re


def handle(payload):
    return bool(re.fullmatch(r"(a|a)*b", "a" * 200))
