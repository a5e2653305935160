"""The file format of backups: a plain tar of few, known members, written here and read here.

Any tar program lists and unpacks it (POSIX.1-2017, pax, "ustar Interchange Format"; sizes from
8 GiB on as GNU tar writes them). Reading takes less than those programs do: a header must be, byte
for byte, the one that `write` makes for its name and size, so there is no link, folder, device,
extension or odd name to be wary of, and what follows the end mark is refused.

What is in it: the artifacts under `artifacts/`, the database, the signing key where the server
keeps one, and last a small JSON that says what the rest should be.
"""

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import BinaryIO

from anymind_lite.errors import BackupError
from anymind_lite.strict_json import StrictJsonError, parse_json

FORMAT = 1
ARTIFACTS = "artifacts/"
DATABASE = "anymind.sqlite3"
SECRET_KEY = "secret.key"  # noqa: S105 - a name
CONTENTS = "backup.json"

_BLOCK_BYTES = 512
_END_MARK = bytes(2 * _BLOCK_BYTES)
_PIECE_BYTES = 1 << 20
_MAX_SMALL_BYTES = 64 * 1024
_OCTAL_SIZES = 8**11
# name mode uid gid size mtime checksum kind linkname magic version uname gname device prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s16s155s12x")
_ARTIFACT = re.compile(
    ARTIFACTS + r"agents/[1-9][0-9]{0,18}/artifacts/agent_[0-9]{1,19}_[0-9a-f]{12}\.tar\.gz"
)

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")

_DAMAGED = "it is no backup of Anymind Lite, or is damaged"


@dataclass(frozen=True)
class Contents:
    """What a backup says of itself.

    `schema` is the last migration of its database. `missing` counts the versions whose artifact
    was lost or damaged already when the backup was made. SHA-256 are hexadecimal.
    """

    format: int
    app_version: str
    created_at: str
    schema: str
    database_sha256: str
    secret_key_sha256: str
    artifacts: int
    missing: int

    def to_json(self) -> bytes:
        """Return the text of the last member."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def read_contents(text: bytes) -> Contents:
    """Read the last member. Raises BackupError."""
    try:
        values = parse_json(text, max_depth=2)
    except StrictJsonError as exc:
        raise BackupError(f"{_DAMAGED} ({CONTENTS}: {exc})") from exc
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise BackupError(f"{_DAMAGED} ({CONTENTS} tells no format)")
    if values["format"] != FORMAT:
        raise BackupError(
            f"it has format {values['format']}, and this version of Anymind Lite reads {FORMAT}"
        )
    types = {field.name: field.type for field in fields(Contents)}
    is_whole = {name: type(value) for name, value in values.items()} == types
    if not is_whole or not _INSTANT.fullmatch(values["created_at"]):
        raise BackupError(f"{_DAMAGED} ({CONTENTS} lacks what it must tell)")
    return Contents(**values)


@dataclass(frozen=True)
class Member:
    """One file in a backup: where its content begins, and its length."""

    name: str
    offset: int
    size: int


def is_artifact_name(name: str) -> bool:
    """Tell whether a member's name is one that an artifact can have."""
    return _ARTIFACT.fullmatch(name) is not None


# Writing ------------------------------------------------------------------------------------------


def write_member(file: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    """Append a member. `chunks` must come to `size` bytes; raises ValueError otherwise."""
    file.write(_header(name, size))
    written = 0
    for chunk in chunks:
        written += file.write(chunk)
    if written != size:
        raise ValueError(f"{name}: {written} bytes instead of {size}")
    file.write(bytes(-size % _BLOCK_BYTES))


def write_end(file: BinaryIO) -> None:
    """Append the end mark."""
    file.write(_END_MARK)


def _header(name: str, size: int) -> bytes:
    unsummed = _packed(name, size, b" " * 8)
    return _packed(name, size, b"%06o\0 " % sum(unsummed))


def _packed(name: str, size: int, checksum: bytes) -> bytes:
    octal_size = b"%011o\0" % size if size < _OCTAL_SIZES else b"\x80" + size.to_bytes(11, "big")
    return _HEADER.pack(
        name.encode(),
        b"0000600\0",
        *(b"0000000\0", b"0000000\0"),
        octal_size,
        b"00000000000\0",
        checksum,
        *(b"0", b"", b"ustar\0", b"00", b"", b"", b"", b""),
    )


# Reading ------------------------------------------------------------------------------------------


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the members in their order, passing over their contents.

    All names are known ones, no name but an artifact's comes twice, all contents lie in the file,
    `CONTENTS` is last, and the file ends with the end mark; otherwise raises BackupError, at the
    member where it is seen.
    """
    end = os.fstat(file.fileno()).st_size
    expected, offset, name = {DATABASE, SECRET_KEY, CONTENTS}, 0, ""
    while (block := _block_at(file, offset)) != _END_MARK[:_BLOCK_BYTES]:
        name, size = _read_header(block)
        member = Member(name, offset + _BLOCK_BYTES, size)
        padding = bytes(-size % _BLOCK_BYTES)
        offset = member.offset + size + len(padding)
        if CONTENTS not in expected or offset > end:
            raise BackupError(_DAMAGED)
        if _block_at(file, member.offset + size, len(padding)) != padding:
            raise BackupError(_DAMAGED)
        if not is_artifact_name(name):
            expected -= {name} if name in expected else _refused(name)
        yield member
    if expected - {SECRET_KEY} or _block_at(file, offset, len(_END_MARK) + 1) != _END_MARK:
        raise BackupError(_DAMAGED)


def _refused(name: str) -> set[str]:
    raise BackupError(f"{_DAMAGED} (it holds a file that does not belong there, or one twice)")


def _block_at(file: BinaryIO, offset: int, size: int = _BLOCK_BYTES) -> bytes:
    file.seek(offset)
    return file.read(size)


def _read_header(block: bytes) -> tuple[str, int]:
    try:
        fields_ = _HEADER.unpack(block)
        name, raw_size = fields_[0].rstrip(b"\0").decode("ascii"), fields_[4]
        binary = raw_size[:1] == b"\x80"
        size = int.from_bytes(raw_size[1:], "big") if binary else int(raw_size[:11], 8)
        if size >= 0 and _header(name, size) == block:
            return name, size
    except (struct.error, ValueError):
        pass  # cut short, not ASCII, no number
    raise BackupError(_DAMAGED)


def read_small(file: BinaryIO, member: Member) -> bytes:
    """Return the content of a member that is short by its nature. Raises BackupError."""
    if member.size > _MAX_SMALL_BYTES:
        raise BackupError(f"{_DAMAGED} ({PurePosixPath(member.name).name} is too large)")
    return _block_at(file, member.offset, member.size)


def read_pieces(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield a member's content."""
    file.seek(member.offset)
    left = member.size
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece
