import inspect


class Function:
    @property
    def __signature__(self):
        return inspect.signature(lambda payload, *_, **__: None)

    def __getattr__(self, name):
        raise AttributeError(name)

    def __call__(self, *arguments, **named):
        return {"achieved": [], "tried": [len(arguments), len(named)]}


handle = Function()
