class Function:
    @property
    def __signature__(self):
        while True:
            pass

    def __call__(self, payload):
        return {}


handle = Function()
