from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("C:\\hostile.py", b"hostile"))
