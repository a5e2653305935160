import itertools


def handle(payload):
    return (number for number in itertools.count())
