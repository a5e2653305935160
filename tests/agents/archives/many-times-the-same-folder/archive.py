from tests.agents.tar_parts import agent, folder, packed


def build() -> bytes:
    return packed(agent(), *[folder("again")] * 200_000)
