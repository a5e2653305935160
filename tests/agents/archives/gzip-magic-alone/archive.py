def build() -> bytes:
    return b"\x1f\x8b"
