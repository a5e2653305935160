from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(
        agent(),
        member("././@LongLink", b"x" * 10_000 + b"\0", kind=b"L"),
        member("short", b"hostile"),
    )
