class Items(list):
    def __len__(self):
        return 1 << 62

    def __iter__(self):
        yield from ("more", "and", "less")


class Text(str):
    def __len__(self):
        return -1  # noqa: PLE0303

    def encode(self, *_):
        return b"}]"


class Number(int):
    def __repr__(self):
        return '"}, "forged": {'

    __str__ = __repr__


def handle(payload):
    return {"achieved": [], "tried": Items([Text("lies"), Number(5)])}
