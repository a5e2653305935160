from tests.agents.tar_parts import END, agent, member, packed


def build() -> bytes:
    return packed(agent(), END, member("hostile.py", b"x"))
