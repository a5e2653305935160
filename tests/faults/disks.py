"""Small file systems to fill, to make read-only, and to cut the power of. For root alone."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for

_MEGABYTE = 1024 * 1024
_PIECE = b"\0" * 4096


def command(*words: str | Path) -> None:
    """Run a command of the system; its words are the error when it fails."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"


def need_disks(*programs: str) -> None:
    """Skip the test where file systems cannot be made; for root in CI that is a failure."""
    if os.geteuid() != 0:
        pytest.skip("mounting is for root")
    for program in ("mkfs.ext4", *programs):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode:
            missing = f"there is no {program}"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


@contextmanager
def mounted(source: str | Path, folder: Path, *options: str) -> Iterator[Path]:
    """Mount something while the block runs."""
    folder.mkdir(exist_ok=True)
    command("mount", *options, source, folder)
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount what nobody uses, or will not in a moment.

    A mount namespace that somebody else made meanwhile has all mounts of its time, and with them
    the loop device and the file below it: those of servers in other test runs, too.
    """

    def is_unmounted() -> bool:
        done = subprocess.run(["umount", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "busy" in done.stderr, f"{folder}: {done.stderr}"
        return done.returncode == 0

    wait_for(is_unmounted, f"nobody to use {folder}")


def make_ext4(image: Path, megabytes: int) -> None:
    """Make a file that is an ext4 file system, without room that is root's alone."""
    with image.open("wb") as file:
        file.truncate(megabytes * _MEGABYTE)
    command("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)


@contextmanager
def small_disk(kind: str, folder: Path, megabytes: int = 48) -> Iterator[Path]:
    """Mount a new file system of that kind and size."""
    if kind == "tmpfs":
        with mounted("none", folder, "-t", "tmpfs", "-o", f"size={megabytes}m"):
            yield folder
    else:
        image = folder.with_suffix(".img")
        make_ext4(image, megabytes)
        with mounted(image, folder, "-o", "loop"):
            yield folder


def fill(folder: Path) -> Path:
    """Write until nothing more fits; return the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(_PIECE)
        except OSError:
            pass
        os.fsync(file.fileno())
    return ballast
