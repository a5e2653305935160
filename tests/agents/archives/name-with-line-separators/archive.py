from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("a\u2028b\x85c", b"hostile"))
