import zlib


def pack(megabytes):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def handle(payload):
    return {"achieved": ["inflated"], "size": len(zlib.decompress(pack(4000), -15))}
