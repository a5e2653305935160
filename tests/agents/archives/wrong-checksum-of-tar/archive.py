from tests.agents.tar_parts import agent, header, packed


def build() -> bytes:
    return packed(agent(), b"x" + header("hostile.py")[1:])
