from tests.agents.tar_parts import MANIFEST, SOURCE, member, packed


def build() -> bytes:
    return packed(member("__MACOSX/anymind.yaml", MANIFEST), member("__MACOSX/main.py", SOURCE))
