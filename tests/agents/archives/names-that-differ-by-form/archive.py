from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("caf\u00e9.py", b"x"), member("cafe\u0301.py", b"y"))
