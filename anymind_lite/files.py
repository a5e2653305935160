"""Files that survive a power cut, and trees that go away whatever an agent made of them."""

import contextlib
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_PATH finds a folder that may not be read; macOS has no such flag and must do without.
_CAN_ONLY_FIND = hasattr(os, "O_PATH")
_FIND_FLAGS = _DIR_FLAGS | getattr(os, "O_PATH", 0)
_MAX_DEPTH = 100


def fsync_dir(path: Path) -> None:
    """Make the names in a folder durable: a rename is lost in a power cut without it (fsync(2))."""
    fd = os.open(path, _DIR_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir_durable(path: Path, mode: int = 0o700) -> None:
    """Create a folder and its missing parents so that they survive a power cut."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for folder in reversed(missing):
        try:
            folder.mkdir(mode)
        except FileExistsError:
            pass  # Another made it, and may have taken it away again, which `exist_ok` refuses.
        fsync_dir(folder.parent)


def write_durable(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a small file as a whole: after a power cut it holds the old content or the new.

    One writer at a time: the temporary name is the same each time, so that what a killed process
    left is replaced by the next.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


class TreeTooLarge(Exception):
    """A folder holds more than it may, or is nested deeper than anybody needs."""


def check_tree(path: Path, *, max_entries: int, max_bytes: int) -> None:
    """Raise TreeTooLarge for a folder, possibly being filled by hostile code, that holds too much.

    Bytes are those taken on the disk. Follows no link, and looks at `max_entries` at most, through
    at most `_MAX_DEPTH` descriptors. Raises OSError when it changes while it is read.
    """
    entries = size = 0
    with closing(_walk(os.open(path, _DIR_FLAGS), depth=0)) as statuses:
        for status in statuses:
            entries, size = entries + 1, size + status.st_blocks * 512
            if entries > max_entries or size > max_bytes:
                raise TreeTooLarge


def _walk(fd: int, depth: int) -> Generator[os.stat_result, None, None]:
    """Yield the status of all that is below an open folder, which is closed in the end."""
    try:
        if depth > _MAX_DEPTH:
            raise TreeTooLarge
        with os.scandir(fd) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                yield status
                if stat.S_ISDIR(status.st_mode):
                    yield from _walk(os.open(entry.name, _DIR_FLAGS, dir_fd=fd), depth + 1)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Delete a folder that hostile code may have filled; does nothing when it is not there.

    Never follows a link, and stays flat: an inner folder is moved up beside the others before it is
    read, so 5,000 nested folders need neither recursion nor descriptors (`shutil.rmtree` fails on
    them before Python 3.13). Nothing may write to the tree meanwhile, but others may remove it, as
    where an agent is deleted while its build ends. Raises OSError, also for what is no folder or
    only a link to one.
    """
    try:
        top = open_closed_dir(path)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def _empty(top: int) -> None:
    while names := os.listdir(top):
        for name in names:
            # Somebody else has removed it, or a part of it: what is left is listed again.
            with contextlib.suppress(FileNotFoundError):
                _remove(name, top)


def _remove(name: str, top: int) -> None:
    if not _is_dir(name, top):
        os.unlink(name, dir_fd=top)
        return
    inner = open_closed_dir(name, dir_fd=top)
    try:
        _lift_folders(inner, top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def open_closed_dir(path: Path | str, dir_fd: int | None = None) -> int:
    """Open a folder, never a link to one, whatever its mode; from then on its owner may do all."""
    found = os.open(path, _FIND_FLAGS, dir_fd=dir_fd)
    try:
        _unlock(found)
        return os.open(".", _DIR_FLAGS, dir_fd=found)
    finally:
        os.close(found)


def _unlock(found: int) -> None:
    """Give a found folder a mode under which it can be read, emptied and moved.

    By its descriptor: a chmod by name follows a link that was put there a moment ago, and would
    change the mode of any file of the system (chmod(2)). fchmod(2) refuses an O_PATH descriptor,
    its name below /proc does not (open(2), O_PATH).
    """
    if _CAN_ONLY_FIND:
        os.chmod(f"/proc/self/fd/{found}", 0o700)
    else:
        os.fchmod(found, 0o700)


def _lift_folders(inner: int, top: int) -> None:
    """Unlink the files of one folder and move its folders up to the top."""
    for name in os.listdir(inner):
        if _is_dir(name, inner):
            # Renaming a folder rewrites its `..`, which needs write permission on it (rename(2)).
            os.close(open_closed_dir(name, dir_fd=inner))
            os.rename(name, secrets.token_hex(16), src_dir_fd=inner, dst_dir_fd=top)
        else:
            os.unlink(name, dir_fd=inner)


def _is_dir(name: str, dir_fd: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
