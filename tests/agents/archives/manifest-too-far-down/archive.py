from tests.agents.tar_parts import MANIFEST, SOURCE, member, packed


def build() -> bytes:
    return packed(member("a/anymind.yaml", MANIFEST), member("b/main.py", SOURCE))
