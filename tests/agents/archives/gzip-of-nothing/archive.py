import gzip


def build() -> bytes:
    return gzip.compress(b"")
