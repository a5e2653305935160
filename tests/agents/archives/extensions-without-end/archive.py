from tests.agents.tar_parts import agent, member, packed, pax


def build() -> bytes:
    return packed(agent(), *[pax((b"comment", b"x"))] * 10_000, member("a", b"x"))
