from tests.agents.tar_parts import agent, header, packed


def build() -> bytes:
    return packed(agent(), header("hostile.py", size=b"\x80\0\0\x7f" + b"\xff" * 8))
