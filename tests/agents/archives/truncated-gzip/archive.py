import random

from tests.agents.tar_parts import agent, member, packed


def build() -> bytes:
    return packed(agent(), member("data", random.Random(0).randbytes(100_000)))[:60_000]
