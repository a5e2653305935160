from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("././@LongLink", b"x" * (10 << 20), kind=b"L"), member("a", b"x"))
