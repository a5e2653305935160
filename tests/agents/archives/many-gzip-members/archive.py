import gzip

from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    return packed(agent()) + gzip.compress(b"", mtime=0) * 400_000
