class handle:
    def __init__(self, payload):
        pass
