class Silent(BaseException):
    def __str__(self):  # noqa: PLE0307
        while True:
            pass


def handle(payload):
    raise Silent
