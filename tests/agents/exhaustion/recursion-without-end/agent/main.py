import sys


def deeper(level):
    return deeper(level + 1)


def handle(payload):
    sys.setrecursionlimit(2**31 - 1)
    return deeper(0)
