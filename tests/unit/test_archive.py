import errno
import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from anymind_lite import archive as reader
from anymind_lite.archive import ArchiveLimits, find_root
from anymind_lite.errors import BuildError
from tests.processes import open_descriptors

LIMITS = ArchiveLimits(max_bytes=2**20, max_files=50)
END = bytes(1024)


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    size_field: bytes | None = None,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    signed: bool = False,
) -> bytes:
    """Lay out a ustar header by hand, since `tarfile` refuses to write most of what is tested."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = octal(0o777, 8)
    block[124:136] = size_field if size_field is not None else octal(size, 12)
    block[136:148] = octal(0, 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(b"%d" % length) + len(rest) != length:
            length += 1
        body += b"%d" % length + rest
    return member(b"PaxHeaders/x", body, kind)


def link(name: bytes, target: bytes, kind: bytes) -> bytes:
    block = bytearray(header(name, 0, kind))
    block[157 : 157 + len(target)] = target
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def unpack_archive(path: Path, into: Path, limits: ArchiveLimits) -> tuple[str, ...]:
    folder = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with path.open("rb") as compressed:
            return reader.unpack_archive(compressed, folder, limits)
    finally:
        os.close(folder)


def is_tar_gz(path: Path) -> bool:
    with path.open("rb") as file:
        return reader.is_tar_gz(file)


def unpack(
    upload: bytes | Iterable[bytes], into: Path, limits: ArchiveLimits = LIMITS
) -> tuple[str, ...]:
    path = into.parent / "upload.tar.gz"
    with path.open("wb") as file:
        file.writelines([upload] if isinstance(upload, bytes) else upload)
    return unpack_archive(path, into, limits)


def refusal(upload: bytes | Iterable[bytes], into: Path, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(BuildError) as caught:
        unpack(upload, into, limits)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400
    return text


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- honest archives ---


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "pkg" / "deep").mkdir(parents=True)
    (folder / "anymind.yaml").write_text("name: a\nentrypoint: main:handle\n")
    (folder / "main.py").write_bytes(b"x" * 512)
    (folder / "pkg" / "deep" / ("long_" * 18 + "name.py")).write_bytes(b"y" * 70_000)
    (folder / "pkg" / "größe 漢字.txt").write_bytes(b"")
    (folder / "pkg" / "run.sh").write_bytes(b"#!")
    (folder / "pkg" / "run.sh").chmod(0o4777)
    return folder


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs a tar command")
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "posix", "ustar"])
def test_archives_of_gnu_tar_unpack_to_what_was_packed(
    form: str, project: Path, into: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    subprocess.run(["tar", f"--format={form}", "-czf", path, "-C", project, "."], check=True)

    names = unpack_archive(path, into, LIMITS)

    assert is_tar_gz(path)
    assert names == tuple(sorted(contents(project)))
    assert contents(into) == contents(project)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_python_unpack_to_what_was_packed(
    form: int, project: Path, into: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=form) as archive:
        archive.add(project, arcname="my-agent")

    names = unpack_archive(path, into, LIMITS)

    assert find_root(names) == "my-agent"
    assert contents(into / "my-agent") == contents(project)


HONEST: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "nothing": (b"", {}),
    "one file": (member(b"a", b"hi"), {"a": b"hi"}),
    "dot slash": (member(b"./", kind=b"5") + member(b"./a", b"hi"), {"a": b"hi"}),
    "folder without slash": (member(b"d", kind=b"5") + member(b"d/a"), {"d/a": b""}),
    "folder by its slash alone": (member(b"d/", kind=b"\0") + member(b"d/a"), {"d/a": b""}),
    "folder after its file": (member(b"d/a") + member(b"d/", kind=b"5"), {"d/a": b""}),
    "folder twice": (member(b"d/", kind=b"5") * 2, {}),
    "folders never named": (member(b"a/b/c/d.py", b"1"), {"a/b/c/d.py": b"1"}),
    "old and contiguous kinds": (member(b"a", b"1", b"\0") + member(b"b", b"2", b"7"),
                                 {"a": b"1", "b": b"2"}),
    "prefix": (header(b"b.py", prefix=b"long/way"), {"long/way/b.py": b""}),
    "GNU times in place of the prefix": (
        header(b"b.py", prefix=b"14000000000", magic=b"ustar  \0"), {"b.py": b""}),
    "no magic at all": (header(b"b.py", prefix=b"junk", magic=bytes(8)), {"b.py": b""}),
    "signed checksum": (header("é".encode(), signed=True), {"é": b""}),
    "base 256 size": (header(b"a", size_field=b"\x80" + bytes(10) + b"\2") + b"hi" + bytes(510),
                      {"a": b"hi"}),
    "size without digits": (header(b"a", size_field=b" " * 12), {"a": b""}),
    "bsdtar": (
        pax((b"path", "größe/漢字.py".encode()), (b"mtime", b"1700000000.123"),
            (b"LIBARCHIVE.xattr.com.apple.provenance", b"AQIA"),
            (b"SCHILY.xattr.com.apple.provenance", b"\x01\x02\0\n="))
        + member(b"grosse/x", b"hi"), {"größe/漢字.py": b"hi"}),
    "pax size": (pax((b"size", b"2")) + header(b"a", 0) + b"hi" + bytes(510), {"a": b"hi"}),
    "pax path taken back": (pax((b"path", b"b"), (b"path", b"")) + member(b"a"), {"a": b""}),
    "GNU long name": (member(b"././@LongLink", b"n" * 150 + b"\0", b"L") + member(b"n" * 100, b"1"),
                      {"n" * 150: b"1"}),
    "git archive": (pax((b"comment", b"0" * 40), kind=b"g") + member(b"a"), {"a": b""}),
    "drive letter": (member(b"C:a"), {"C:a": b""}),
    "dots in names": (member(b"..a/...") + member(b".env"), {"..a/...": b"", ".env": b""}),
    "junk": (
        b"".join(member(name) for name in [
            b"._a", b"d/._a", b".DS_Store", b"d/.DS_Store", b"__MACOSX/d/x", b"__pycache__/a.py",
            b"d/__pycache__/m.cpython-312.pyc", b"m.pyc", b"M.PYC", b"m.pyo", b"PaxHeader/a",
            b"PaxHeaders.123/a"]) + member(b"a", b"1"), {"a": b"1"}),
}  # fmt: skip


@pytest.mark.parametrize("case", HONEST)
def test_honest_members_become_files(case: str, into: Path) -> None:
    content, files = HONEST[case]

    names = unpack(packed(tar(content)), into)

    assert names == tuple(sorted(files))
    assert contents(into) == files


STREAMS: dict[str, bytes] = {
    "several gzip members": packed(member(b"a")) + packed(b"") + packed(END),
    "zeros after the gzip": packed(tar(member(b"a"))) + bytes(700),
    "one end block": packed(member(b"a") + bytes(512)),
    "record of 10 KiB": packed(member(b"a") + bytes(9728)),
}


@pytest.mark.parametrize("case", STREAMS)
def test_unusual_but_legal_streams_are_read(case: str, into: Path) -> None:
    assert unpack(STREAMS[case], into) == ("a",)


@pytest.mark.parametrize("umask", [0, 0o22, 0o77])
def test_modes_do_not_depend_on_archive_or_umask(umask: int, into: Path) -> None:
    before = os.umask(umask)
    try:
        unpack(packed(tar(member(b"d/", kind=b"5"), member(b"d/e/a"))), into)
    finally:
        os.umask(before)

    assert stat.S_IMODE((into / "d/e/a").stat().st_mode) == 0o644
    assert stat.S_IMODE((into / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((into / "d/e").stat().st_mode) == 0o755


# --- hostile archives ---


REFUSED: dict[str, tuple[bytes, str]] = {
    "symbolic link": (link(b"bin/python", b"/etc/passwd", b"2"), "replace the link by a copy"),
    "hard link": (link(b"passwd", b"/etc/passwd", b"1"), "replace the link by a copy"),
    "character device": (member(b"null", kind=b"3"), "a character device"),
    "block device": (member(b"sda", kind=b"4"), "a block device"),
    "named pipe": (member(b"pipe", kind=b"6"), "a named pipe"),
    "GNU sparse file": (member(b"s", kind=b"S"), "--sparse"),
    "pax sparse file": (pax((b"GNU.sparse.major", b"1")) + member(b"s"), "--sparse"),
    "unknown kind": (member(b"v", kind=b"V"), "neither a file nor a folder"),
    "way up": (member(b"../a"), '".."'),
    "way up inside": (member(b"a/../../b"), '".."'),
    "way up as a folder": (member(b"..", kind=b"5"), '".."'),
    "way up in a pax path": (pax((b"path", b"a/../../b")) + member(b"b"), '".."'),
    "way up in a long name": (member(b"L", b"../b\0", b"L") + member(b"b"), '".."'),
    "way up in a prefix": (header(b"b", prefix=b".."), '".."'),
    "way up that is junk": (member(b"../__pycache__/a"), '".."'),
    "absolute": (member(b"/etc/cron.d/a"), "is absolute"),
    "absolute behind a dot": (member(b".//etc/a"), "empty"),
    "backslash": (member(rb"..\a"), "backslash"),
    "empty part": (member(b"a//b"), "empty"),
    "dot part": (member(b"a/./b"), "empty"),
    "two slashes at the end": (member(b"a//", kind=b"5"), "empty"),
    "newline": (member(b"a\nb"), "control character"),
    "escape": (member(b"a\x1b[2Jb"), "control character"),
    "line separator": (member("a\u2028b".encode()), "control character"),
    "NUL in a pax path": (pax((b"path", b"a\0b")) + member(b"b"), "control character"),
    "not UTF-8": (member(b"caf\xe9"), "UTF-8"),
    "surrogate": (member(b"a\xed\xa0\x80"), "UTF-8"),
    "201 characters": (pax((b"path", b"a/" + b"b" * 199)) + member(b"b"), "200 characters"),
    "13 deep": (member(b"/".join([b"d"] * 13)), "12 folders deep"),
    "part of 256 bytes": (pax((b"path", "é".encode() * 128)) + member(b"b"), "255 bytes"),
    "file without a name": (member(b""), "without a name"),
    "file that is the root": (member(b"."), "without a name"),
    "same file twice": (member(b"a") + member(b"./a"), "twice"),
    "two cases": (member(b"Readme") + member(b"README"), "one name"),
    "two cases of a folder": (member(b"Src/a") + member(b"src/b"), "one name"),
    "two Unicode forms": (member("é".encode()) + member("e\u0301".encode()), "one name"),
    "sharp s": (member("ß".encode()) + member(b"SS"), "one name"),
    "file, then folder": (member(b"a") + member(b"a/b"), "twice"),
    "folder, then file": (member(b"a/b") + member(b"a"), "twice"),
    "folder with contents": (member(b"d", b"data", b"5"), "folder with contents"),
    "negative size": (header(b"a", size_field=b"\xff" * 12), "not a number"),
    "minus sign": (header(b"a", size_field=b"-0000000002\0"), "not a number"),
    "size in words": (header(b"a", size_field=b"two apples\0\0"), "not a number"),
    "size of 2**87": (header(b"a", size_field=b"\x80" + b"\xff" * 11), "unpacks to more than"),
    "size of 8 GiB": (header(b"a", size_field=b"7" * 12), "unpacks to more than"),
    "size past the end": (header(b"a", 9000), "cut short"),
    "negative pax size": (pax((b"size", b"-1")) + member(b"a"), "not a number"),
    "endless pax size": (pax((b"size", b"9" * 5000)) + member(b"a"), "not a number"),
    "huge pax size": (pax((b"size", b"9" * 20)) + member(b"a"), "unpacks to more than"),
    "pax size for all": (pax((b"size", b"1"), kind=b"g") + member(b"a"), "for all"),
    "pax path for all": (pax((b"path", b"b"), kind=b"g") + member(b"a"), "for all"),
    "pax without a length": (member(b"x", b"path=b\n", b"x") + member(b"a"), "damaged"),
    "pax of length 0": (member(b"x", b"0 path=b\n", b"x") + member(b"a"), "damaged"),
    "pax too long": (member(b"x", b"99 path=b\n", b"x") + member(b"a"), "damaged"),
    "pax of a long length": (member(b"x", b"9" * 5000 + b" a=b\n", b"x"), "damaged"),
    "pax of many records": (member(b"x", b"5 a=\n" * 200, b"x") + member(b"a"), "records"),
    "pax of negative size": (header(b"x", 0, b"x", size_field=b"\xff" * 12), "not a number"),
    "pax of 2 MiB": (header(b"x", 2**21, b"x"), "1 MB"),
    "long name of 2 MiB": (header(b"x", 2**21, b"L"), "1 MB"),
    "many pax headers": (pax((b"path", b"b")) * 900 + member(b"a"), "in a row"),
    "pax for nothing": (pax((b"path", b"b")), "damaged"),
    "pax of a pax": (pax((b"size", b"0")) + pax((b"path", b"../b")) + member(b"a"), '".."'),
    "wrong checksum": (b"X" + member(b"a")[1:], "no tar archive"),
    "checksum in words": (member(b"a")[:148] + b"nonsense" + member(b"a")[156:], "no tar"),
    "archive behind an archive": (tar(member(b"a")) + member(b"b"), "end mark"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_members_are_refused_with_a_mend(case: str, into: Path) -> None:
    content, expected = REFUSED[case]

    assert expected in refusal(packed(tar(content)), into)
    assert {path.name for path in into.parent.iterdir()} == {"into", "upload.tar.gz"}


def test_refusal_names_the_member(into: Path) -> None:
    text = refusal(packed(tar(link(b"bin/python", b"python3", b"2"))), into)

    assert '"bin/python", a symbolic link' in text


WHOLE = packed(tar(member(b"a", random.Random(1).randbytes(5000))))

BROKEN: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "0 bytes"),
    "one byte": (b"\x1f", "not a gzip"),
    "not gzip": (b"PK\x03\x04 a zip", "not a gzip"),
    "plain tar": (tar(member(b"a")), "not a gzip"),
    "gzip of nothing": (packed(b""), "no tar archive"),
    "gzip of text": (packed(b"hello " * 200), "no tar archive"),
    "gzip of a few letters": (packed(b"hello"), "no tar archive"),
    "no end mark": (packed(member(b"a")), "no tar archive"),
    "cut in the gzip header": (WHOLE[:5], "cut short"),
    "cut in the data": (WHOLE[:2000], "cut short"),
    "cut in the trailer": (WHOLE[:-1], "cut short"),
    "cut without trailer": (WHOLE[:-8], "cut short"),
    "cut in the second member": (packed(member(b"a")) + packed(END)[:-3], "cut short"),
    "wrong checksum": (WHOLE[:-8] + bytes(4) + WHOLE[-4:], "damaged"),
    "wrong length": (WHOLE[:-4] + bytes(4), "damaged"),
    "unknown method": (b"\x1f\x8b\x07" + WHOLE[3:], "damaged"),
    "bytes turned": (WHOLE[:100] + bytes(50) + WHOLE[150:], "damaged"),
    "text behind": (WHOLE + b"text", "not gzip"),
    "text behind zeros": (WHOLE + bytes(100_000) + b"text", "not gzip"),
    "half a magic behind": (WHOLE + b"\x1f", "cut short"),
    "millions of members": (packed(b"") * 20_000 + WHOLE, "too many gzip members"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_streams_are_refused(case: str, into: Path) -> None:
    upload, expected = BROKEN[case]

    assert expected in refusal(upload, into)


# --- limits ---


def zeros_bomb(start: bytes, total_bytes: int) -> Iterable[bytes]:
    deflate = zlib.compressobj(1, wbits=31)
    yield deflate.compress(start)
    for _ in range(total_bytes // 2**20):
        yield deflate.compress(bytes(2**20))
    yield deflate.flush()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        header(b"a", 2**27),
        header(b"x", 2**27, b"x"),
        header(b"x", 2**27, b"L"),
        header(b"d", 2**27, b"5"),
        member(b"a") + END,
    ],
    ids=["zeros", "file", "pax header", "long name", "folder", "after the end mark"],
)
def test_bomb_ends_at_once_and_small(start: bytes, into: Path) -> None:
    bomb = list(zeros_bomb(start, 2**27))
    began = time.monotonic()

    refusal(bomb, into, ArchiveLimits(max_bytes=2**24, max_files=50))

    assert time.monotonic() - began < 2
    assert sum(len(data) for data in contents(into).values()) <= 2**24


@pytest.mark.slow
def test_gibibyte_of_zeros_is_refused_however_much_is_allowed(into: Path) -> None:
    limits = ArchiveLimits(max_bytes=2**30 - 1, max_files=50)

    assert "unpacks to more than 1024 MB" in refusal(zeros_bomb(b"", 2**30), into, limits)


def test_every_inflated_byte_counts(into: Path) -> None:
    upload = packed(tar(member(b"a", b"1" * 512), pax((b"path", b"b")), member(b"b")))
    needed = 512 * 2 + 512 * 2 + 512 + 1024

    with pytest.raises(BuildError, match=f"more than {needed - 1} bytes"):
        unpack(upload, into, ArchiveLimits(max_bytes=needed - 1, max_files=50))
    shutil.rmtree(into)
    into.mkdir()
    assert unpack(upload, into, ArchiveLimits(max_bytes=needed, max_files=50)) == ("a", "b")


@pytest.mark.parametrize(
    ("content", "fits"),
    [
        (b"".join(member(b"f%d" % i) for i in range(50)), True),
        (b"".join(member(b"f%d" % i) for i in range(51)), False),
        (b"".join(member(b"a/b/c/d/e/f%d/g" % i) for i in range(25)), False),
        (member(b"./", kind=b"5") * 51, False),
        (member(b"._a") * 51, False),
    ],
    ids=["just enough", "one more", "folders never named", "the root again", "junk"],
)
def test_number_of_members_and_of_what_they_make_is_capped(
    content: bytes, fits: bool, into: Path
) -> None:
    if fits:
        assert len(unpack(packed(tar(content)), into)) == 50
    else:
        assert "more than 50 files and folders" in refusal(packed(tar(content)), into)


def test_longest_and_deepest_names_fit(into: Path) -> None:
    deep = "/".join("d" * 12)
    long = "é" * 100 + "/" + "b" * 99
    content = member(deep.encode()) + pax((b"path", long.encode())) + member(b"b")

    assert unpack(packed(tar(content)), into) == (deep, long)


# --- our own errors, and the folder ---


def test_our_own_errors_pass_through(into: Path) -> None:
    compressed = io.BytesIO(packed(tar(member(b"a"))))
    folder = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    into.rmdir()
    try:
        with pytest.raises(FileNotFoundError):
            reader.unpack_archive(compressed, folder, LIMITS)
    finally:
        os.close(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_not_the_senders_fault(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def open_full(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            return real_open("/dev/full", os.O_WRONLY)
        return real_open(path, flags, mode, dir_fd=dir_fd)

    upload = into.parent / "upload.tar.gz"
    upload.write_bytes(packed(tar(member(b"a", b"1" * 9000))))
    monkeypatch.setattr("anymind_lite.archive._set_mode", lambda descriptor, mode: None)
    monkeypatch.setattr("anymind_lite.archive.os.open", open_full)

    with pytest.raises(OSError, match="No space left") as caught:
        unpack_archive(upload, into, LIMITS)

    assert caught.value.errno == errno.ENOSPC


def test_what_is_already_in_the_folder_is_never_followed_or_overwritten(
    into: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"before")
    (into / "d").symlink_to(outside)
    (into / "a").symlink_to(outside / "a")
    for content in (member(b"d/a", b"after"), member(b"a", b"after"), member(b"d/", kind=b"5")):
        with pytest.raises((BuildError, OSError)):
            unpack(packed(tar(content)), into)

    assert contents(outside) == {"a": b"before"}


def test_no_descriptor_is_left_open(into: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = open_descriptors()
    for number, (content, _) in enumerate(REFUSED.values()):
        (into / str(number)).mkdir()
        with pytest.raises(BuildError):
            unpack(packed(tar(content)), into / str(number))

    assert open_descriptors() == before


# --- is_tar_gz ---


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        (packed(tar(member(b"a"))), True),
        (packed(tar()), True),
        (packed(b"") + packed(tar(member(b"a"))), True),
        (packed(member(b"a", bytes(9000)))[:-8], True),
        (b"", False),
        (b"\x1f\x8b", False),
        (packed(b""), False),
        (packed(b"hello"), False),
        (packed(b"hello" * 500), False),
        (packed(bytes(511)), False),
        (tar(member(b"a")), False),
        (b"PK\x03\x04" + bytes(600), False),
        (b"\x1f\x8b" + bytes(600), False),
        (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 3_000_000, False),
        (packed(b"") * 20_000, False),
    ],
)
def test_archives_are_told_by_their_content(upload: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(upload)

    assert is_tar_gz(path) is expected


def test_telling_an_archive_reads_only_the_start_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(packed(tar(member(b"a"))))
    os.truncate(path, 2**33)  # A hole; reading it would take seconds.
    began = time.monotonic()

    assert is_tar_gz(path)
    assert time.monotonic() - began < 1


# --- find_root ---


@pytest.mark.parametrize(
    ("files", "root"),
    [
        (["anymind.yaml", "main.py"], ""),
        (["agent/anymind.yaml", "agent/lib/main.py"], "agent"),
        (["anymind.yaml", "agent/anymind.yaml"], ""),
    ],
)
def test_root_is_the_folder_of_the_manifest(files: list[str], root: str) -> None:
    assert find_root(files) == root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "it holds no files"),
        (["main.py"], 'it holds "main.py"'),
        (["anymind.yml", "main.py"], 'rename "anymind.yml"'),
        (["Anymind.YAML", "main.py"], 'rename "Anymind.YAML"'),
        (["agent/anymind.yml"], 'rename "agent/anymind.yml"'),
        (["a/b/anymind.yaml"], 'inside the folder "a/b"'),
        (["README", "agent/anymind.yaml"], 'inside the folder "agent"'),
        ([f"f{i:03}" for i in range(30)], '"f019" and 10 more'),
        (["x" * 200], '"' + "x" * 77 + '..."'),
    ],
)
def test_missing_manifest_is_explained(files: list[str], expected: str) -> None:
    with pytest.raises(BuildError) as caught:
        find_root(files)

    assert expected in str(caught.value)
    assert "anymind.yaml" in str(caught.value)


# --- fuzz ---


def mutated(data: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at = chance.randrange(len(mutant) + 1)
        match chance.randrange(4):
            case 0:
                mutant[at : at + 1] = chance.randbytes(1)
            case 1:
                del mutant[at : at + chance.choice([1, 12, 512])]
            case 2:
                mutant[at:at] = mutant[at // 2 : at // 2 + chance.choice([1, 12, 512])]
            case _:
                mutant[at : at + 8] = chance.choice(
                    [b"\xff" * 8, b"7777777\0", b"../../x/", b"999 a=b\n"]
                )
    return bytes(mutant)


def with_checksums(content: bytes) -> bytes:
    """Mend each block's checksum, so that mutants come past it."""
    blocks = bytearray(content)
    for at in range(0, len(blocks) - 511, 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)


SEEDS = [content for content, _ in [*HONEST.values(), *REFUSED.values()] if len(content) < 20_000]
FUZZ_LIMITS = ArchiveLimits(max_bytes=2**18, max_files=30)
SECONDS_AN_INPUT = 5.0


def mutant(chance: random.Random) -> bytes:
    """Return an archive that is a known one but for a few bytes."""
    content = mutated(tar(chance.choice(SEEDS)), chance)
    upload = packed(with_checksums(content))
    return mutated(upload, chance) if chance.random() < 0.2 else upload


def unpack_or_refuse(upload: bytes, tmp_path: Path) -> bool:
    """Tell whether it was unpacked; fail for any end but this or a refusal, and for any trace."""
    nest = tmp_path / "nest"
    into = nest / "x" / "into"
    into.mkdir(parents=True)
    path = tmp_path / "upload"
    path.write_bytes(upload)
    began = time.monotonic()
    is_tar_gz(path)
    names: tuple[str, ...] | None = None
    refused = ""
    try:
        names = unpack_archive(path, into, FUZZ_LIMITS)
        assert set(contents(into)) == set(names)
        find_root(names)
    except BuildError as error:
        refused = str(error)
    assert refused.isprintable()
    assert time.monotonic() - began < SECONDS_AN_INPUT
    assert [p.name for p in nest.iterdir()] == ["x"]
    assert [p.name for p in (nest / "x").iterdir()] == ["into"]
    assert all(is_plain(p.lstat()) for p in into.rglob("*"))
    shutil.rmtree(nest)
    return names is not None


def is_plain(seen: os.stat_result) -> bool:
    """Tell a folder, or a file of one name, with the right mode and size, from the rest."""
    mode = stat.S_IMODE(seen.st_mode)
    if stat.S_ISDIR(seen.st_mode):
        return mode == 0o755
    is_alone = stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1
    return is_alone and mode == 0o644 and seen.st_size <= FUZZ_LIMITS.max_bytes


@pytest.mark.slow
def test_mutants_are_unpacked_or_refused_and_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(20250101)
    assert sum(unpack_or_refuse(mutant(chance), tmp_path) for _ in range(2000)) > 100


def test_agrees_with_tarfile_on_what_python_packs(into: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    path = tmp_path / "a.tar.gz"
    expected: dict[str, bytes] = {}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for number in range(40):
            name = f"{number}/n" + "".join(chance.choices("aé漢 .-_'", k=chance.choice([3, 60])))
            data = chance.randbytes(chance.choice([0, 1, 511, 512, 513, 3000]))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            expected[name] = data

    unpack_archive(path, into, ArchiveLimits(max_bytes=2**20, max_files=100))

    assert contents(into) == expected


def test_reader_needs_nothing_of_the_server() -> None:
    code = (
        "import sys, anymind_lite.archive\n"
        "print({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)\n"
        "print([name for name in sys.modules if name.startswith('anymind_lite.')])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    ).stdout  # fmt: skip

    assert "flask" not in shown
    assert "yaml" not in shown
    assert shown.endswith("['anymind_lite.errors', 'anymind_lite.archive']\n")
