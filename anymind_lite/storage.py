"""The artifact store: the only code that knows the paths of uploads and of unpacked code.

Artifacts are written once and never changed: temporary name, fsync, rename, fsync of the folder.
Leaving out either fsync loses acknowledged files in a power cut (fsync(2), rename(2)). Unpacked
code is a cache of them and may vanish at any time while the server is down.
"""

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anymind_lite.errors import BuildError, DiskFull, InvalidInput, TooLarge
from anymind_lite.files import fsync_dir, make_dir_durable, open_closed_dir, remove_tree
from anymind_lite.sandbox.protocol import let_agents_pass

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
_TRASH_SECONDS = 7 * 24 * 3600

# What an upload or a build on another thread makes of a folder that is being removed.
_RACE_ERRNOS = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
_REMOVE_ATTEMPTS = 10
_REMOVE_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class SavedArtifact:
    """A file in the store: `path` is relative to it and names it for ever."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class FreshCode:
    """An empty folder, open, for the reader to fill. Its `path` is safe: the folder above is ours.

    What is below is reached through the descriptor alone: whoever filled it may have left anything.
    """

    path: Path
    folder_fd: int


class ArtifactStore:
    """Keeps artifacts under `root` and unpacked code under `code_root`.

    `is_tar_gz` tells of an upload, open for reading, whether it is an archive: the reader, as the
    server looks into no upload itself.
    """

    def __init__(
        self,
        root: Path,
        code_root: Path,
        *,
        max_upload_bytes: int,
        is_tar_gz: Callable[[BinaryIO], bool],
    ) -> None:
        self._root = root
        self._is_tar_gz = is_tar_gz
        self._incoming = root / ".incoming"
        # Below the root, which may be a disk of its own: only so is moving a file there a rename.
        self._trash = root / ".trash"
        self._code_root = code_root
        self._max_upload_bytes = max_upload_bytes

    def start(self) -> None:
        """Make the folders; drop unfinished uploads and all unpacked code.

        After a power cut an unpacked file may be empty though its name is there: nothing that a
        dead server unpacked is trusted.
        """
        remove_tree(self._incoming)
        remove_tree(self._code_root)
        make_dir_durable(self._incoming)
        make_dir_durable(self._code_root)

    def save_artifact(self, agent_id: int, chunks: Iterable[bytes]) -> SavedArtifact:
        """Write an upload durably and return where it stands.

        Raises TooLarge over the upload limit and InvalidInput for what is no gzipped tar; nothing
        stays in either case. OSError passes: a full disk, or FileNotFoundError when the agent is
        deleted meanwhile.
        """
        token = secrets.token_hex(6)
        temporary = self._incoming / token
        try:
            sha256, size = self._write(temporary, chunks)
            with temporary.open("rb") as upload:
                if not self._is_tar_gz(upload):
                    raise InvalidInput("File must be a .tar.gz archive")
            path = f"agents/{agent_id}/artifacts/agent_{agent_id}_{token}.tar.gz"
            target = self._root / path
            try:
                _rename_durable(temporary, target)
            except FileNotFoundError:
                # Another upload was discarded just now, with the folder that was still empty.
                self._rename_again(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return SavedArtifact(path, sha256, size)

    def _rename_again(self, temporary: Path, target: Path) -> None:
        try:
            _rename_durable(temporary, target)
        except FileNotFoundError:  # the agent was deleted
            _remove_if_empty(target.parent)
            raise

    def sweep(self, named: Container[str]) -> int:
        """Move artifacts that no row names to the trash; return how many.

        `named` holds the paths of all rows. Only at start, when no upload is about to get its row.
        What has been in the trash for a week is deleted, and so are folders of agents that are
        empty. Raises OSError.
        """
        self._empty_trash(time.time() - _TRASH_SECONDS)
        count = 0
        for folder in list(self._root.glob("agents/*/artifacts")):
            for file in list(folder.iterdir()):
                if str(file.relative_to(self._root)) not in named:
                    self._move_to_trash(file)
                    count += 1
        self._remove_empty_folders()
        return count

    def _empty_trash(self, oldest: float) -> None:
        self._trash.mkdir(mode=0o700, exist_ok=True)
        for file in list(self._trash.iterdir()):
            if file.stat().st_mtime < oldest:
                file.unlink()

    def _move_to_trash(self, file: Path) -> None:
        os.utime(file)  # its week begins now
        file.rename(self._trash / file.name)

    def _remove_empty_folders(self) -> None:
        for pattern in ("agents/*/artifacts", "agents/*"):
            for folder in list(self._root.glob(pattern)):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()

    def _write(self, path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > self._max_upload_bytes:
                    raise TooLarge(f"File exceeds the limit of {self._max_upload_bytes:,} bytes")
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest(), size

    def artifact_path(self, path: str) -> Path:
        """Return where an artifact stands; `path` comes from a row, never from a client."""
        return self._root / path

    def discard_artifact(self, path: str) -> None:
        """Delete an artifact that no row names, and its agent's folders when they are empty."""
        file = self.artifact_path(path)
        file.unlink(missing_ok=True)
        _remove_if_empty(file.parent)

    @contextmanager
    def open_artifact(self, path: str, sha256: str) -> Iterator[BinaryIO]:
        """Open an artifact to read. Raises BuildError unless it is there as it was uploaded."""
        try:
            file = self.artifact_path(path).open("rb")
        except FileNotFoundError as exc:
            raise BuildError("The artifact is missing on the server; upload it again.") from exc
        with file:
            digest = hashlib.sha256()
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
            if digest.hexdigest() != sha256:
                raise BuildError("The artifact is damaged on the server; upload it again.")
            file.seek(0)
            yield file

    def code_dir(self, agent_id: int, version_id: int) -> Path:
        """Return where a version's code is, or will be, unpacked."""
        return self._code_root / f"{agent_id}/{version_id}"  # every run asks: one step, not two

    @contextmanager
    def fresh_code(self) -> Iterator[FreshCode]:
        """Make an empty folder to unpack into; what is not installed is removed in the end."""
        parent = self._code_root / f".new-{secrets.token_hex(6)}"
        parent.mkdir(mode=0o700)
        try:
            tree = parent / "tree"
            tree.mkdir(mode=0o755)
            folder_fd = open_closed_dir(tree)
            try:
                yield FreshCode(tree, folder_fd)
            finally:
                os.close(folder_fd)
        finally:
            remove_tree(parent)

    def install_code(
        self, agent_id: int, version_id: int, fresh: FreshCode, root: str = ""
    ) -> Path:
        """Put a version's code in place as a whole and return its folder; the first one wins.

        `root` is the agent's root in the fresh folder: "" for itself, or a plain name in it. Who
        filled the folder is gone, and may have left anything. Raises OSError, also for a root that
        is no folder.
        """
        target = self.code_dir(agent_id, version_id)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        let_agents_pass(target.parent)
        os.fchmod(fresh.folder_fd, 0o755)
        if root:
            root_fd = open_closed_dir(root, dir_fd=fresh.folder_fd)
            try:
                os.fchmod(root_fd, 0o755)
            finally:
                os.close(root_fd)
        source = root or fresh.path
        try:
            os.rename(source, target, src_dir_fd=fresh.folder_fd if root else None)
        except OSError:
            if not target.is_dir():  # another thread unpacked the same version just now
                raise
        return target

    def remove_code(self, agent_id: int, version_id: int) -> None:
        """Forget the unpacked code of a version."""
        remove_tree(self.code_dir(agent_id, version_id))

    def remove_agent(self, agent_id: int) -> None:
        """Delete every artifact and all unpacked code of an agent that is gone.

        Uploads and builds of it may be ending meanwhile: they find no row, and take away what they
        made. Both folders are tried, whatever comes of the first. Raises OSError in the end, and
        the next start takes what stays.
        """
        try:
            _remove_contested(self._root / "agents" / str(agent_id))
        finally:
            _remove_contested(self._code_root / str(agent_id))

    def free_bytes(self) -> int:
        """Return the room left on the store's disk."""
        return free_bytes(self._root)


def free_bytes(folder: Path) -> int:
    """Return the room that is left to this user on the disk of a folder (statvfs(3))."""
    return shutil.disk_usage(folder).free


class DiskReserve:
    """Room that is left free for what has begun: results, logs, the database's own work.

    It is measured anew each time, so what was refused is taken again as soon as there is room. A
    reserve of 0 refuses nothing.
    """

    def __init__(
        self,
        *folders: Path,
        reserve_bytes: int,
        measure: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folders = tuple(dict.fromkeys(folders))  # each is asked for every execution
        self._reserve_bytes = reserve_bytes
        self._measure = measure
        self._was_reached = False

    def spare_bytes(self) -> int:
        """Return how much may be written, on the fullest of the disks, until it is reached."""
        return min(self._measure(folder) for folder in self._folders) - self._reserve_bytes

    def require(self, needed_bytes: int = 0) -> None:
        """Refuse to begin what will write so much. Raises DiskFull."""
        if self._reserve_bytes == 0:
            return
        spare = self.spare_bytes()
        self._tell_change(spare)
        if spare < needed_bytes:
            raise DiskFull(
                f"The server's disk is nearly full: {_megabytes(spare + self._reserve_bytes)} MB "
                f"are free, and {_megabytes(self._reserve_bytes)} MB stay in reserve; delete "
                "agents that are not needed, or have its operator make room or lower "
                "DISK_RESERVE_MB"
            )

    def _tell_change(self, spare: int) -> None:
        is_reached = spare < 0
        if is_reached != self._was_reached:
            self._was_reached = is_reached
            event = "disk_reserve_reached" if is_reached else "disk_reserve_free"
            logger.warning("event=%s spare_mb=%d", event, spare >> 20)


def _megabytes(count: int) -> str:
    return f"{count >> 20:,}"


def _remove_if_empty(artifacts: Path) -> None:
    """Delete an agent's folder of artifacts, and the one above, unless something is there."""
    with contextlib.suppress(OSError):  # not empty, or gone
        artifacts.rmdir()
        artifacts.parent.rmdir()


def _remove_contested(folder: Path) -> None:
    """Delete a folder in which other threads still make and delete; raises OSError."""
    for _ in range(_REMOVE_ATTEMPTS - 1):
        try:
            remove_tree(folder)
            return
        except OSError as exc:
            if exc.errno not in _RACE_ERRNOS:
                raise
        time.sleep(_REMOVE_PAUSE_SECONDS)
    remove_tree(folder)


def _rename_durable(path: Path, target: Path) -> None:
    """Give a file its final name so that it survives a power cut, or take the name back."""
    make_dir_durable(target.parent)
    path.rename(target)
    try:
        fsync_dir(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
