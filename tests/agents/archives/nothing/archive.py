from tests.agents.tar_parts import packed


def build() -> bytes:
    return packed()
