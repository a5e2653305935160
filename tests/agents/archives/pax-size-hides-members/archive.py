from tests.agents.tar_parts import agent, member, packed, pax


def build() -> bytes:
    return packed(agent(), pax((b"size", b"%d" % (1 << 40))), member("hostile.py", b"x"))
