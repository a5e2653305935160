"""The only reader of .tar.gz files: tells what one is and unpacks it into a fresh folder.

Every byte read here is hostile. Whatever is wrong with an archive ends as a `BuildError` whose text
tells its sender what to change; an `OSError` is ours (disk full, no permission, a bad disk) and
passes through. Time and memory are bounded by the size of the file and by `ArchiveLimits`. It runs
in the process of a reading (`reader/in_reading.py`), never in the server: all it needs comes as
descriptors.

`tarfile` is not used. On Pythons this project supports it recurses on chained headers, reads a
header's body of any size in one call, backtracks without end on crafted ones (CVE-2024-6232), loops
on negative sizes (CVE-2025-8194), and differs from version to version. What an agent needs of the
format is small: plain files and folders of the v7, ustar, GNU and pax kinds (POSIX.1-2017, pax,
"ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format"). Modes,
owners, times, and all other fields that are not used are not read either.
"""

import errno
import io
import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from anymind_lite.errors import BuildError, quoted

_BLOCK_BYTES = 512
_PIECE_BYTES = 64 * 1024
_PROBE_BYTES = 1024 * 1024  # Of the compressed file; a gzip header may hold a name of any length.
_MAX_EXTENSION_BYTES = 1024 * 1024  # One pax or GNU header; honest ones hold names and attributes.
_MAX_EXTENSIONS_IN_A_ROW = 4  # GNU tar and bsdtar write at most two for one member.
_MAX_PAX_RECORDS = 100  # A header; honest ones hold ten and a few attributes, and each costs 1 us.
_MAX_GZIP_MEMBERS = 10_000  # Each costs a fresh inflater; a file may hold millions of empty ones.
_MAX_PART_BYTES = 255  # NAME_MAX of the usual file systems.
_MAX_LISTED_NAMES = 20

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW_BITS = 31  # zlib.h, inflateInit2: 16 + 15 accepts the gzip wrapper and nothing else.
_POSIX_MAGIC = b"ustar\x0000"  # GNU's is "ustar  \0" and keeps times where POSIX keeps the prefix.

_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")

_FILE_KINDS = frozenset({b"0", b"\0", b"7"})
_FOLDER_KIND = b"5"
_EXTENSION_KINDS = frozenset({b"x", b"g", b"L", b"K"})
_REFUSED_KINDS = {
    b"1": ("a hard link", "replace the link by a copy of the file, or leave it out"),
    b"2": ("a symbolic link", "replace the link by a copy of the file, or leave it out"),
    b"3": ("a character device", "leave it out"),
    b"4": ("a block device", "leave it out"),
    b"6": ("a named pipe", "leave it out"),
    b"S": ("a sparse file", "make the archive without --sparse"),
}
_UNKNOWN_KIND = ("neither a file nor a folder", "leave it out")

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
# What open(2) and mkdir(2) answer to a name that the file system does not take.
_REFUSED_NAME_ERRNOS = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})

_MAKE_IT = "make it with: tar -czf agent.tar.gz -C my-agent ."
_NOT_TAR = f"What is inside the gzip file is no tar archive, or is damaged; {_MAKE_IT}"
_CUT_SHORT = "The archive is cut short; make and upload it again."

MANIFEST_NAME = "anymind.yaml"


@dataclass(frozen=True)
class ArchiveLimits:
    """The most that one archive may hold.

    `max_bytes` counts every inflated byte: contents, headers, padding, and what is skipped.
    `max_files` counts members of every kind, and also files and folders written; `max_name_chars`
    is for a whole name, `max_depth` for its parts.
    """

    max_bytes: int
    max_files: int
    max_name_chars: int = 200
    max_depth: int = 12


def is_tar_gz(file: BinaryIO) -> bool:
    """Tell by its first bytes whether a file is a gzipped tar archive.

    Reads at most 1 MiB and inflates one block. Raises only `OSError`, when the file cannot be read.
    """
    start = io.BytesIO(file.read(_PROBE_BYTES))
    try:
        stream = _Inflated(start, max_bytes=_PROBE_BYTES, piece_bytes=_BLOCK_BYTES)
        block = stream.read(_BLOCK_BYTES)
    except BuildError:
        return False
    return len(block) == _BLOCK_BYTES and (not _has_data(block) or _is_header(block))


def unpack_archive(compressed: BinaryIO, into: int, limits: ArchiveLimits) -> tuple[str, ...]:
    """Write an archive's files and folders into an empty folder; return the files' names, sorted.

    `into` is the folder's descriptor. Names are relative to it and POSIX. Files get mode 0644 and
    folders 0755 whatever the umask is. Anything but a file or a folder is refused. Skipped without
    a word: macOS's `._*`, `.DS_Store` and `__MACOSX`, left-over `PaxHeader` folders, and
    `__pycache__` and `*.pyc`: Python would run a stale or hostile .pyc in place of the source that
    people read. The stream must be whole: an end mark, zeros after it, and the gzip checksum right.

    Raises `BuildError` when the archive is at fault, `OSError` when we are. What was written until
    then stays; the caller made the folder and removes it.
    """
    return _unpack(_Inflated(compressed, limits.max_bytes), _Tree(into, limits), limits)


def find_root(files: Collection[str]) -> str:
    """Return the agent's root among an archive's files: "" or the name of the single top folder.

    It is the folder that holds `anymind.yaml`. Raises `BuildError` that says what came instead.
    """
    if MANIFEST_NAME in files:
        return ""
    tops = {name.partition("/")[0] for name in files}
    if len(tops) == 1:
        top = tops.pop()
        if f"{top}/{MANIFEST_NAME}" in files:
            return top
    raise BuildError(
        f"The archive needs {MANIFEST_NAME} at its root or in its single top folder; "
        f"{_manifest_hint(files)}it holds {_listed(files)}."
    )


def _manifest_hint(files: Collection[str]) -> str:
    """Say what to do about a manifest that is misnamed or in the wrong place."""
    for name in sorted(files, key=lambda name: (name.count("/"), name)):
        folder, _, base = name.rpartition("/")
        if base == MANIFEST_NAME:
            return f"make it from inside the folder {quoted(folder)}, which has one; "
        if base.casefold() in {MANIFEST_NAME, "anymind.yml"}:
            return f"rename {quoted(name)} to {MANIFEST_NAME}; "
    return ""


def _listed(files: Collection[str]) -> str:
    if not files:
        return "no files"
    names = ", ".join(quoted(name) for name in sorted(files)[:_MAX_LISTED_NAMES])
    more = len(files) - _MAX_LISTED_NAMES
    return f"{names} and {more} more" if more > 0 else names


# --- gzip ---


class _Inflated:
    """The inflated bytes of a gzip file (RFC 1952), one or more members, at most `max_bytes`."""

    def __init__(
        self, compressed: BinaryIO, max_bytes: int, *, piece_bytes: int = _PIECE_BYTES
    ) -> None:
        self._compressed = compressed
        self._max_bytes = max_bytes
        self._piece_bytes = piece_bytes
        self._inflated_bytes = 0
        self._gzip_members = 0
        self._ready = b""
        self._pending = compressed.read(_PIECE_BYTES)
        if not self._pending:
            raise BuildError(f"The archive is empty (0 bytes); {_MAKE_IT}")
        if not self._pending.startswith(_GZIP_MAGIC):
            raise BuildError(f"The archive is not a gzip file; {_MAKE_IT}")
        self._start_member()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream; callers keep `size` small."""
        while len(self._ready) < size and (piece := self._next_piece()):
            self._ready += piece
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _next_piece(self) -> bytes:
        """Return some bytes; none only at the end of a file that is whole."""
        while not self._inflater.eof or self._has_next_member():
            if piece := self._inflate():
                return piece
        return b""

    def _inflate(self) -> bytes:
        compressed = self._pending or self._compressed.read(_PIECE_BYTES)
        if not compressed:
            raise BuildError(_CUT_SHORT)
        # One byte more than allowed is enough to know; a length of 0 would mean "no limit".
        left = self._max_bytes - self._inflated_bytes
        try:
            piece = self._inflater.decompress(compressed, min(self._piece_bytes, left + 1))
        except zlib.error:
            raise BuildError("The archive is damaged; make and upload it again.") from None
        self._pending = self._inflater.unused_data or self._inflater.unconsumed_tail
        self._inflated_bytes += len(piece)
        if self._inflated_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return piece

    def _has_next_member(self) -> bool:
        """Go on to the next gzip member; False at the end, which zeros may pad."""
        self._pending = self._pending or self._compressed.read(_PIECE_BYTES)
        if self._pending[:1] == _GZIP_MAGIC[:1]:
            self._start_member()
            return True
        while self._pending:
            if _has_data(self._pending):
                raise BuildError(
                    "The archive is followed by bytes that are not gzip; make and upload it again."
                )
            self._pending = self._compressed.read(_PIECE_BYTES)
        return False

    def _start_member(self) -> None:
        self._gzip_members += 1
        if self._gzip_members > _MAX_GZIP_MEMBERS:
            raise BuildError("The archive consists of too many gzip members; compress it in one.")
        self._inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)


# --- tar ---


@dataclass(frozen=True)
class _Member:
    """A file or a folder; `parts` is its checked name, empty for the root. Its data comes next."""

    parts: tuple[str, ...]
    is_folder: bool
    size: int


def _next_member(stream: _Inflated, limits: ArchiveLimits) -> _Member | None:
    """Read a member's headers; None at the end of the archive."""
    extensions: dict[bytes, bytes] = {}
    for count in range(_MAX_EXTENSIONS_IN_A_ROW + 1):
        block = stream.read(_BLOCK_BYTES)
        if count == 0 and len(block) == _BLOCK_BYTES and not _has_data(block):
            _expect_only_zeros(stream)
            return None
        if not _is_header(block):
            raise BuildError(_NOT_TAR)
        kind = block[156:157]
        if kind not in _EXTENSION_KINDS:
            return _read_member(block, extensions, limits)
        _read_extension(kind, _read_body(block, stream), extensions)
    raise BuildError(f"The archive holds too many extension headers in a row; {_MAKE_IT}")


def _expect_only_zeros(stream: _Inflated) -> None:
    """Read the zeros that fill tar's last record, and so have the gzip trailer checked as well."""
    while piece := stream.read(_PIECE_BYTES):
        if _has_data(piece):
            raise BuildError(
                "The archive goes on after its end mark; put all files into one tar archive."
            )


def _has_data(piece: bytes) -> bool:
    """Tell zeros from the rest; `any` takes 20 ns a byte, which a bomb of zeros would make felt."""
    return bool(piece.strip(b"\0"))


def _is_header(block: bytes) -> bool:
    """Tell whether a block's checksum is right; old tars summed signed bytes."""
    if len(block) != _BLOCK_BYTES:
        return False
    digits = block[148:156].strip(b" \0")
    if re.fullmatch(rb"[0-7]{1,8}", digits) is None:
        return False
    counted = block[:148] + b" " * 8 + block[156:]
    excess = sum(counted) - int(digits, 8)
    return excess == 0 or excess == 256 * sum(byte > 127 for byte in counted)


def _read_number(field: bytes, name: str) -> int:
    """Read a size: octal digits, or base 256 behind the byte 0x80 (0xff would make it negative)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if re.fullmatch(rb"[0-7]*", digits) is None:
        raise BuildError(f"The size of {name} in the archive is not a number; {_MAKE_IT}")
    return int(digits or b"0", 8)


def _read_body(block: bytes, stream: _Inflated) -> bytes:
    """Read what an extension header carries."""
    size = _read_number(block[124:136], "an extension header")
    if size > _MAX_EXTENSION_BYTES:
        raise BuildError(f"The archive holds an extension header of over 1 MB; {_MAKE_IT}")
    return b"".join(_read_data(stream, size))


def _read_extension(kind: bytes, body: bytes, extensions: dict[bytes, bytes]) -> None:
    """Take from an extension header what changes the member after it: its name and size."""
    if kind == b"L":
        extensions[b"long name"] = body.partition(b"\0")[0]
    elif kind == b"x":
        extensions.update(_pax_records(body))
    elif kind == b"g" and any(_pax_records(body).values()):
        raise BuildError(f"The archive holds one name or size for all its members; {_MAKE_IT}")
    # "K" is the target of a link, and links are refused; git's "g" holds a comment.


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    """Return the records `<length> <key>=<value>\\n` that matter; an empty value takes one back."""
    records: dict[bytes, bytes] = {}
    position = count = 0
    while position < len(body) and body[position] != 0:
        count += 1
        length = _PAX_LENGTH.match(body, position)
        end = position + int(length[1]) if length else 0
        if length is None or end <= length.end() or body[end - 1 : end] != b"\n":
            raise BuildError(f"The archive holds a pax header that is damaged; {_MAKE_IT}")
        if count > _MAX_PAX_RECORDS:
            raise BuildError(
                f"The archive holds a pax header of over {_MAX_PAX_RECORDS} records: make it "
                "without extended attributes."
            )
        key, _, value = body[length.end() : end - 1].partition(b"=")
        if key in {b"path", b"size"} or key.startswith(b"GNU.sparse."):
            records[key] = value
        position = end
    return records


def _read_member(block: bytes, extensions: dict[bytes, bytes], limits: ArchiveLimits) -> _Member:
    """Turn a member's header into a checked value; raises `BuildError` for what is not taken."""
    raw_name = extensions.get(b"path") or extensions.get(b"long name") or _header_name(block)
    shown = quoted(raw_name[:4096].decode("utf-8", "backslashreplace"))
    kind = block[156:157]
    if any(key.startswith(b"GNU.sparse.") for key in extensions):
        kind = b"S"
    if kind not in _FILE_KINDS and kind != _FOLDER_KIND:
        what, mend = _REFUSED_KINDS.get(kind, _UNKNOWN_KIND)
        raise BuildError(f"The archive holds {shown}, {what}: {mend}.")
    # Before there were kinds, a slash at the end of its name made a folder.
    is_folder = kind == _FOLDER_KIND or raw_name.endswith(b"/")
    size = _member_size(block, extensions, shown)
    if is_folder and size:
        raise BuildError(f"The archive holds a folder with contents, {shown}; {_MAKE_IT}")
    if size > limits.max_bytes:
        raise too_large(limits.max_bytes)
    return _Member(_checked_parts(raw_name, shown, limits), is_folder, size)


def _header_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if prefix and block[257:265] == _POSIX_MAGIC:
        return prefix + b"/" + name
    return name


def _member_size(block: bytes, extensions: dict[bytes, bytes], shown: str) -> int:
    if not (digits := extensions.get(b"size")):
        return _read_number(block[124:136], shown)
    if re.fullmatch(rb"[0-9]{1,20}", digits) is None:
        raise BuildError(f"The size of {shown} in the archive is not a number; {_MAKE_IT}")
    return int(digits)


def _checked_parts(raw_name: bytes, shown: str, limits: ArchiveLimits) -> tuple[str, ...]:
    """Return a member's name in parts: relative, clean, and short enough for any file system."""
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad_name(shown, "is not UTF-8") from None
    if name.startswith("/"):
        raise _bad_name(shown, "is absolute")
    name = name.removeprefix("./").removesuffix("/")
    if name in {"", "."}:
        return ()
    if len(name) > limits.max_name_chars:
        raise _bad_name(shown, f"is over {limits.max_name_chars} characters")
    if "\\" in name:
        raise _bad_name(shown, "holds a backslash")
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in name):
        raise _bad_name(shown, "holds a control character")
    parts = tuple(name.split("/"))
    if len(parts) > limits.max_depth:
        raise _bad_name(shown, f"is over {limits.max_depth} folders deep")
    if not {"", ".", ".."}.isdisjoint(parts):
        raise _bad_name(shown, 'has a part that is empty, "." or ".."')
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        raise _bad_name(shown, f"has a part of over {_MAX_PART_BYTES} bytes")
    return parts


def _read_data(stream: _Inflated, size: int) -> Iterator[bytes]:
    """Yield a member's contents in pieces, then go past its padding."""
    left = size
    while left:
        piece = stream.read(min(left, _PIECE_BYTES))
        if not piece:
            raise BuildError(_CUT_SHORT)
        left -= len(piece)
        yield piece
    padding = -size % _BLOCK_BYTES
    if len(stream.read(padding)) < padding:
        raise BuildError(_CUT_SHORT)


# --- files ---


def _unpack(stream: _Inflated, tree: "_Tree", limits: ArchiveLimits) -> tuple[str, ...]:
    members = 0
    while (member := _next_member(stream, limits)) is not None:
        members += 1
        if members > limits.max_files:
            raise _too_many(limits.max_files)
        data = _read_data(stream, member.size)
        if _is_junk(member.parts):
            for _ in data:
                pass
        elif member.is_folder:
            tree.add_folder(member.parts)
        elif member.parts:
            tree.add_file(member.parts, data)
        else:
            raise BuildError(f"The archive holds a file without a name; {_MAKE_IT}")
    return tuple(sorted(tree.files))


def _is_junk(parts: tuple[str, ...]) -> bool:
    """Tell whether a member is never wanted; `unpack_archive` says why."""
    if any(
        part == "__MACOSX" or re.fullmatch(r"__pycache__|PaxHeaders?(\.\d+)?", part, re.IGNORECASE)
        for part in parts
    ):
        return True
    base = parts[-1] if parts else ""
    return (
        base.startswith("._") or base == ".DS_Store" or base.casefold().endswith((".pyc", ".pyo"))
    )


class _Tree:
    """The files and folders written below one open folder, so that no two share a name.

    Every step goes through a descriptor of the folder above and follows no link: a name cannot lead
    out, not even if somebody else puts a link there meanwhile.
    """

    def __init__(self, root: int, limits: ArchiveLimits) -> None:
        self.files: list[str] = []
        self._root = root
        self._max_files = limits.max_files
        self._claimed: dict[str, tuple[str, bool]] = {}

    def add_folder(self, parts: tuple[str, ...]) -> None:
        with self._open_folder(parts):
            pass

    def add_file(self, parts: tuple[str, ...], data: Iterator[bytes]) -> None:
        name = "/".join(parts)
        with self._open_folder(parts[:-1]) as folder:
            self._claim(name, is_folder=False)
            with _refusals_named(name):
                file = os.open(parts[-1], _NEW_FILE_FLAGS, _FILE_MODE, dir_fd=folder)
        with open(file, "wb") as writer:
            _set_mode(file, _FILE_MODE)
            writer.writelines(data)
        self.files.append(name)

    @contextmanager
    def _open_folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        """Walk down from the root, making what is not there yet."""
        folder = os.open(".", _FOLDER_FLAGS, dir_fd=self._root)
        try:
            for depth, part in enumerate(parts, start=1):
                name = "/".join(parts[:depth])
                is_new = self._claim(name, is_folder=True)
                below = _step_down(folder, part, name, is_new=is_new)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    def _claim(self, name: str, *, is_folder: bool) -> bool:
        """Take a name and tell whether it is new; only a folder may come again, spelled alike.

        Case and Unicode form are folded, since some file systems fold them.
        """
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        known = self._claimed.get(key)
        if known is not None and (known != (name, True) or not is_folder):
            raise _clash(known[0], name)
        self._claimed[key] = (name, is_folder)
        if len(self._claimed) > self._max_files:
            raise _too_many(self._max_files)
        return known is None


def _step_down(folder: int, part: str, name: str, *, is_new: bool) -> int:
    """Open a folder in a folder, having made it when it is new."""
    with _refusals_named(name):
        if is_new:
            os.mkdir(part, _FOLDER_MODE, dir_fd=folder)
    below = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
    try:
        if is_new:
            _set_mode(below, _FOLDER_MODE)
    except OSError:
        os.close(below)
        raise
    return below


def _set_mode(descriptor: int, mode: int) -> None:
    """Undo what the umask took; without need no call, as a sandbox may forbid chmod."""
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 != mode:
        os.fchmod(descriptor, mode)


@contextmanager
def _refusals_named(name: str) -> Iterator[None]:
    """Turn a file system's refusal of a name into the sender's error; other errors are ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSED_NAME_ERRNOS:
            raise _bad_name(quoted(name), "is not possible on this server") from error
        if error.errno == errno.EEXIST:
            raise _clash(name, name) from error
        raise


# --- what to tell the sender ---


def _bad_name(shown: str, why: str) -> BuildError:
    return BuildError(f"The archive holds {shown}, a name that {why}: rename it.")


def _clash(first: str, second: str) -> BuildError:
    if first == second:
        return BuildError(f"The archive holds {quoted(first)} twice: leave one out.")
    return BuildError(
        f"The archive holds {quoted(first)} and {quoted(second)}, which are one name on some "
        "systems: rename one."
    )


def too_large(max_bytes: int) -> BuildError:
    """Return the error of an archive that inflates to more than it may."""
    size = f"{max_bytes / 2**20:.4g} MB" if max_bytes >= 2**20 else f"{max_bytes} bytes"
    return BuildError(f"The archive unpacks to more than {size}: leave out what is not needed.")


def _too_many(max_files: int) -> BuildError:
    return BuildError(
        f"The archive holds more than {max_files} files and folders: leave out what is not needed, "
        "such as .venv and node_modules."
    )
