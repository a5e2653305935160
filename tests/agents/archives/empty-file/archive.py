def build() -> bytes:
    return b""
