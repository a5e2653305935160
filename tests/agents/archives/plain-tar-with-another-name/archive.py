from tests.agents.tar_parts import END, agent


def build() -> bytes:
    return agent() + END
