import sys


class Stream:
    def write(self, text):
        self.flush()

    def flush(self):
        while True:
            pass


def handle(payload):
    sys.stdout = sys.stderr = Stream()
    return {"achieved": []}
