from tests.agents.tar_parts import SOURCE, agent, member, packed


def build() -> bytes:
    return packed(agent(), member("Main.py", SOURCE))
