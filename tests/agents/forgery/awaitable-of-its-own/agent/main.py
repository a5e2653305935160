class Awaitable:
    def __await__(self):
        while True:
            yield


def handle(payload):
    return Awaitable()
