import gzip


def build() -> bytes:
    return gzip.compress(b"hello " * 1000)
