"""The parts of a tar archive, right or wrong as asked: what `tarfile` would refuse to write.

POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import gzip

BLOCK = 512
END = bytes(2 * BLOCK)
MANIFEST = b"name: hostile\nentrypoint: main:handle\n"
SOURCE = b"def handle(payload):\n    return {'achieved': [], 'tried': ['archive']}\n"


def header(
    name: bytes | str,
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    link: bytes = b"",
    mode: int = 0o644,
    prefix: bytes = b"",
    owner: int = 0,
) -> bytes:
    """Return one header; a `size` in bytes is written as it is, and so is the name."""
    raw_name = name.encode() if isinstance(name, str) else name
    raw_size = size.rjust(12, b"0") if isinstance(size, bytes) else b"%011o\0" % size
    fields = [raw_name[:100].ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % owner]
    fields += [b"%07o\0" % owner, raw_size, b"%011o\0" % 0, b" " * 8, kind]
    fields += [link[:100].ljust(100, b"\0"), b"ustar\x0000", bytes(64), b"0000000\0" * 2]
    block = b"".join(fields) + prefix.ljust(155, b"\0") + bytes(12)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    """Return data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes | str, data: bytes = b"", *, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """Return a header and what it announces."""
    return header(name, kind=kind, size=len(data), mode=mode) + padded(data)


def folder(name: bytes | str) -> bytes:
    """Return a folder."""
    return header(name, kind=b"5", mode=0o755)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """Return an extension header with its records, each with its own length in front."""
    return member(b"pax", b"".join(_record(key, value) for key, value in records), kind=kind)


def _record(key: bytes, value: bytes) -> bytes:
    text = b" " + key + b"=" + value + b"\n"
    length = len(text) + 1
    while len(b"%d" % length) + len(text) != length:
        length += 1
    return b"%d" % length + text


def agent() -> bytes:
    """Return the members of a whole agent that does no harm."""
    return member("anymind.yaml", MANIFEST) + member("main.py", SOURCE)


def packed(*members: bytes) -> bytes:
    """Return a gzipped archive of members, with its end mark."""
    return gzip.compress(b"".join(members) + END, mtime=0)
