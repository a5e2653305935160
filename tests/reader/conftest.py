"""A real reader, and one whose readings were taken over."""

import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anymind_lite.archive import ArchiveLimits
from anymind_lite.reader import in_server
from anymind_lite.reader.answer import Unpacked
from anymind_lite.reader.in_server import Reader
from tests.live_server import ROOT, pack_agent

GOOD = pack_agent("def handle(payload):\n    return payload\n")
LIMITS = ArchiveLimits(max_bytes=2**20, max_files=50)

# What a hole in a reader would give: code of the attacker's, where the archive is unpacked.
_TAKEN_OVER = """
import ctypes, errno, json, os, signal, socket, sys, time
sys.path.insert(0, {root!r})
from anymind_lite.errors import BuildError
from anymind_lite.reader import in_reader, in_reading

def attack(archive, folder, limits):
{attack}

in_reading.unpack_archive = attack
{more}
in_reader.main()
"""

Start = Callable[..., Reader]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start readers: `attack` is what readings do instead of unpacking, `more` goes before."""
    readers = []

    def start_one(attack: str = "", more: str = "", limits: ArchiveLimits = LIMITS) -> Reader:
        if attack or more:
            body = textwrap.indent(textwrap.dedent(attack or "pass"), "    ")
            script = _TAKEN_OVER.format(root=str(ROOT), attack=body, more=textwrap.dedent(more))
            if not attack:
                script = script.replace("in_reading.unpack_archive = attack", "")
            path = tmp_path / "taken_over.py"
            path.write_text(script)
            monkeypatch.setattr(in_server, "_READER_PATH", path)
        reader = Reader(limits)
        reader.start()
        readers.append(reader)
        return reader

    yield start_one
    for reader in readers:
        reader.stop()


def unpack(reader: Reader, folder: Path, archive: bytes = GOOD, **options: object) -> Unpacked:
    """Have an archive unpacked into a new folder."""
    upload = folder.with_name(f"{folder.name}.tar.gz")
    upload.write_bytes(archive)
    folder.mkdir(mode=0o755)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with upload.open("rb") as file:
            return reader.unpack(file, fd, **options)  # type: ignore[arg-type]
    finally:
        os.close(fd)
