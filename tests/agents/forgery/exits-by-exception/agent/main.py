class Code(int):
    def __int__(self):
        raise KeyboardInterrupt

    __index__ = __abs__ = __str__ = __repr__ = __int__


def handle(payload):
    raise SystemExit(Code(7))
