import zlib

from tests.agents.tar_parts import agent, header


def build() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(agent() + header("hostile.bin", size=4 << 30))
    block = bytes(1 << 20)
    return start + b"".join(packer.compress(block) for _ in range(4096)) + packer.flush()
