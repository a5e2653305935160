from tests.agents.tar_parts import folder, packed


def build() -> bytes:
    return packed(folder("a/"), folder("b/"))
