from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(
        agent(),
        member("././@LongLink", b"../hostile-up.py\0", kind=b"L"),
        member("short", b"hostile"),
    )
