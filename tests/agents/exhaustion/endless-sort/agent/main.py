class Slow:
    def __lt__(self, other):
        while True:
            pass


def handle(payload):
    return sorted([Slow(), Slow()])
