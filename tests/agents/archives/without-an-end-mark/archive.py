import gzip

from tests.agents.tar_parts import agent


def build() -> bytes:
    return gzip.compress(agent(), mtime=0)
