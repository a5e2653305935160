import zlib

from tests.agents.tar_parts import END, agent


def build() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(agent() + END)
    block = bytes(1 << 20)
    return start + b"".join(packer.compress(block) for _ in range(2048)) + packer.flush()
