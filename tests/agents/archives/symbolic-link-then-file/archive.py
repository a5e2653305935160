from tests.agents.tar_parts import agent, header, member, packed


def build() -> bytes:
    return packed(
        agent(), header("out", kind=b"2", link=b"/tmp"), member("out/hostile-through", b"x")
    )
