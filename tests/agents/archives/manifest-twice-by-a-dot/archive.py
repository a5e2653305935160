from tests.agents.tar_parts import MANIFEST, agent, member, packed


def build() -> bytes:
    return packed(agent(), member("./anymind.yaml", MANIFEST))
