from tests.agents.tar_parts import SOURCE, folder, member, packed


def build() -> bytes:
    return packed(folder("anymind.yaml/"), member("main.py", SOURCE))
