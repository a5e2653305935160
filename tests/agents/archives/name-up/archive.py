from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("../hostile-up.py", b"hostile"))
