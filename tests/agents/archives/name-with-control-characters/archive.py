from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(
        agent(), member("a\r\n[  0.001 s] Build completed successfully\x1b[2J", b"hostile")
    )
