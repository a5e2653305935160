from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("main.py/inner.py", b"x"))
