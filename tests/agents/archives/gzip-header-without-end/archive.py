from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    return b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"x" * (3 << 20) + packed(agent())
