from tests.agents.tar_parts import agent, header, packed


def build() -> bytes:
    return packed(agent(), header("package/", kind=b"5", size=512), bytes(512))
