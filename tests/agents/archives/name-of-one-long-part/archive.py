from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(
        agent(),
        member("././@LongLink", "\u00e9".encode() * 150, kind=b"L"),
        member("short", b"hostile"),
    )
