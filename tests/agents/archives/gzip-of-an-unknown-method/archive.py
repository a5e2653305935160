from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    return b"\x1f\x8b\x07\0\0\0\0\0\0\xff" + packed(agent())[10:]
