from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("a/" * 40 + "b", b"hostile"))
