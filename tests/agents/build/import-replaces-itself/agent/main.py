import sys


class Module:
    def __getattr__(self, name):
        while True:
            pass


sys.modules[__name__] = Module()
