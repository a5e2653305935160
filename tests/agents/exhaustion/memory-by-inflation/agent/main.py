import zlib


def pack(megabytes):
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def handle(payload):
    return {"achieved": ["inflated"], "size": len(zlib.decompress(pack(600)))}
