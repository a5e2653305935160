import itertools


class Endless(dict):
    def items(self):
        return ((str(number), number) for number in itertools.count())


def handle(payload):
    return Endless(achieved=[])
