from tests.agents.tar_parts import agent, header, packed


def build() -> bytes:
    return packed(agent(), *[header(f"f{number}") for number in range(200_000)])
