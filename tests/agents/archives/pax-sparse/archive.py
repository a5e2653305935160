from tests.agents.tar_parts import agent, member, packed, pax


def build() -> bytes:
    return packed(
        agent(),
        pax((b"GNU.sparse.realsize", b"1099511627776"), (b"GNU.sparse.name", b"hostile")),
        member("holes", b"x"),
    )
