from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    return packed(agent())[:-8] + b"\0\0\0\0\0\0\0\0"
