class Undying(dict):
    def __del__(self):
        while True:
            pass


def handle(payload):
    return Undying(achieved=[])
