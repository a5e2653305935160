from tests.agents.tar_parts import agent, packed, pax


def build() -> bytes:
    return packed(pax((b"path", b"/tmp/hostile"), kind=b"g"), agent())
