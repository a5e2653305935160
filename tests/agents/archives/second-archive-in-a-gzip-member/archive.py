from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent()) + packed(member("hostile.py", b"x"))
