from tests.agents.tar_parts import agent, member, packed, pax


def build() -> bytes:
    return packed(agent(), pax((b"path", b"../hostile-up.py")), member("main2.py", b"x"))
