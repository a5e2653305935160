from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member(b"caf\xe9\xff.py", b"hostile"))
