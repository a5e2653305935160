from tests.agents.tar_parts import agent, header, packed


def build() -> bytes:
    return packed(agent(), header("hostile", kind=b"1", link=b"../../../anymind.sqlite3"))
