from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    name = b"../" * 33_000 + b"hostile\0"
    return b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + name + packed(agent())[10:]
