from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("pax", b"2 path=x\n0 path=y\n", kind=b"x"), member("a", b"x"))
