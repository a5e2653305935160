from tests.agents.tar_parts import agent, member, packed, pax


def build() -> bytes:
    return packed(agent(), pax((b"size", b"-512")), member("hostile.py", b"x"))
