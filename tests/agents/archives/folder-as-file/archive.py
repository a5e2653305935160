from tests.agents.tar_parts import agent, folder, member, packed


def build() -> bytes:
    return packed(agent(), folder("package/"), member("package", b"x"))
