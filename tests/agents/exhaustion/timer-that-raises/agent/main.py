import signal


class Surprise(BaseException):
    pass


def surprise(*_):
    raise Surprise


def handle(payload):
    signal.signal(signal.SIGALRM, surprise)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    while True:
        pass
