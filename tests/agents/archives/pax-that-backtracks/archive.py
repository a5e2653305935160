from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(
        agent(), member("pax", b"1" * 500_000 + b" " * 400_000, kind=b"x"), member("a", b"x")
    )
