import gzip

from tests.agents.tar_parts import agent, header


def build() -> bytes:
    return gzip.compress(agent() + header("data", size=10_000) + b"x" * 700, mtime=0)
