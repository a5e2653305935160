"""Making a backup: one file with all that a server must not lose, also while it is serving.

The database is copied first, as one snapshot; then the artifacts that this copy names. They are
written once and never changed, so they fit it whenever they are read. An agent that is deleted
meanwhile is the one exception: it is taken out of the copy.

It runs in a process of its own beside the server's and reads by SQL rather than by the models: the
database may still have the schema of an older version.
"""

import errno
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from anymind_lite import __version__, backup_file
from anymind_lite.backup_file import Contents, write_end, write_member
from anymind_lite.clock import iso_format, utc_now
from anymind_lite.config import Settings
from anymind_lite.database import check_copy, copy_database, is_disk_full, open_to_read, remove_copy
from anymind_lite.errors import BackupError
from anymind_lite.files import fsync_dir

# Beside the backup, so that its name can be changed to the final one, and on the disk that the
# operator chose for it. One backup at a time in a folder; the next one sweeps what a dead one left.
_UNFINISHED = ".anymind-backup.tar"
_DATABASE_COPY = ".anymind-backup.sqlite3"

_PIECE_BYTES = 1 << 20
_VERSIONS = """
    SELECT agent_id, tarball_path, tarball_sha256, tarball_bytes
    FROM agent_version ORDER BY agent_id, id
"""


@dataclass(frozen=True)
class Artifact:
    """What a row says of an artifact."""

    agent_id: int
    path: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """Its name in the backup."""
        return backup_file.ARTIFACTS + self.path


@dataclass
class SavedFiles:
    """What came of the artifacts: how many are saved, which are lost, which agents are gone."""

    count: int = 0
    lost: list[str] = field(default_factory=list)
    deleted_agents: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Backup:
    """A finished backup."""

    size_bytes: int
    artifacts: int
    has_secret_key: bool
    lost: tuple[str, ...]


class _Lost(Exception):
    """An artifact is not there, or not as it was uploaded."""


def make_backup(settings: Settings, target: Path) -> Backup:
    """Write a durable backup to `target`, for its owner alone; nothing is left if that fails.

    An artifact that is missing or damaged is left out and told in `lost`. Raises BackupError, also
    when the target exists.
    """
    _refuse_swept_place(settings, target)
    if not settings.database_path.is_file():
        raise BackupError(
            f"There is nothing to back up: no database at {settings.database_path}. "
            "Name the data folder with --data."
        )
    try:
        with _new_file(target) as file:
            backup = _fill(file, settings, target.with_name(_DATABASE_COPY))
    except (OSError, sqlite3.Error) as exc:
        raise BackupError(_explained(exc, settings, target)) from exc
    return backup


def _refuse_swept_place(settings: Settings, target: Path) -> None:
    for folder in (settings.code_path, settings.run_path, settings.storage_path):
        if target.is_relative_to(folder):
            raise BackupError(f"{folder} is the server's own, which empties it. Choose another.")


def _explained(error: Exception, settings: Settings, target: Path) -> str:
    if is_disk_full(error):
        return (
            f"The disk of {target.parent} is full; nothing was kept there. A backup needs room for "
            "the database twice and for every artifact once."
        )
    if isinstance(error, sqlite3.Error):
        # Also a reader of a log needs to write beside it (SQLite manual, "Write-Ahead Logging").
        hint = " Run this as the user that serves." * isinstance(error, sqlite3.OperationalError)
        return f"The database {settings.database_path} cannot be copied ({error}).{hint}"
    return f"The backup cannot be written to {target.parent} ({error})."


# The file -----------------------------------------------------------------------------------------


@contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """Give the block a file to fill, and the file its name when the block has filled it."""
    _refuse_existing(target)
    unfinished = target.with_name(_UNFINISHED)
    with os.fdopen(_claim(unfinished, target.parent), "w+b") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _refuse_existing(target)
            _give_name(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _give_name(unfinished: Path, target: Path) -> None:
    unfinished.rename(target)
    try:
        fsync_dir(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise BackupError(f"{target} exists, and is not overwritten. Choose another name.")


def _claim(unfinished: Path, folder: Path) -> int:
    """Make the temporary file anew and lock it; the kernel drops the lock at any death.

    Never an existing file: in a folder like /tmp somebody else may have made it, and would own
    what is written to it. Raises BackupError while another backup has it.
    """
    with suppress(FileNotFoundError):
        left_over = os.open(unfinished, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _lock(left_over, folder)
            unfinished.unlink()
        finally:
            os.close(left_over)
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, folder)
        if not os.path.samestat(os.fstat(fd), os.lstat(unfinished)):
            raise BackupError(_busy(folder))  # taken for a left-over before it was locked
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, folder: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise BackupError(_busy(folder)) from exc


def _busy(folder: Path) -> str:
    return f"Another backup is being written to {folder}. Wait for its end."


# What goes into it --------------------------------------------------------------------------------


def _fill(file: BinaryIO, settings: Settings, copy_path: Path) -> Backup:
    now = utc_now()
    remove_copy(copy_path)
    copy_database(settings.database_path, copy_path)
    try:
        schema, saved = _save_artifacts(file, settings, copy_path)
        database_sha256 = _write_file(file, backup_file.DATABASE, copy_path)
    finally:
        remove_copy(copy_path)
    key_sha256 = _write_secret_key(file, settings)
    contents = Contents(
        format=backup_file.FORMAT,
        app_version=__version__,
        created_at=iso_format(now),
        schema=schema,
        database_sha256=database_sha256,
        secret_key_sha256=key_sha256,
        artifacts=saved.count,
        missing=len(saved.lost),
    ).to_json()
    write_member(file, backup_file.CONTENTS, len(contents), [contents])
    write_end(file)
    return Backup(
        size_bytes=file.tell(),
        artifacts=saved.count,
        has_secret_key=bool(key_sha256),
        lost=tuple(saved.lost),
    )


def _save_artifacts(file: BinaryIO, settings: Settings, copy_path: Path) -> tuple[str, SavedFiles]:
    """Write the artifacts that the copy names; take out of it whom nobody knows any more."""
    # The copy is thrown away when anything fails, so it needs no journal.
    with (
        closing(sqlite3.connect(copy_path, isolation_level=None)) as copy,
        closing(open_to_read(settings.database_path)) as live,
    ):
        schema = check_copy(copy)
        artifacts = (Artifact(*row) for row in copy.execute(_VERSIONS))

        def is_deleted(agent_id: int) -> bool:
            return live.execute("SELECT 1 FROM agent WHERE id = ?", (agent_id,)).fetchone() is None

        saved = _write_artifacts(file, artifacts, settings.storage_path, is_deleted)
        copy.executescript("PRAGMA journal_mode = OFF; PRAGMA foreign_keys = ON")
        copy.executemany("DELETE FROM agent WHERE id = ?", ((i,) for i in saved.deleted_agents))
    return schema, saved


def _write_artifacts(
    file: BinaryIO,
    artifacts: Iterable[Artifact],
    root: Path,
    is_deleted: Callable[[int], bool],
) -> SavedFiles:
    """Write artifacts, those of an agent one after the other.

    Deleting an agent commits the end of its rows before the first of its files goes, so who finds a
    file gone can tell a loss from a deletion (`delete_agent` in services/agents.py).
    """
    saved = SavedFiles()
    for agent_id, of_agent in groupby(artifacts, key=lambda artifact: artifact.agent_id):
        start, written, lost = file.tell(), 0, []
        for artifact in of_agent:
            if _write_artifact(file, artifact, root):
                written += 1
            else:
                lost.append(artifact.path)
        if lost and is_deleted(agent_id):
            _take_back(file, start)
            saved.deleted_agents.append(agent_id)
        else:
            saved.count += written
            saved.lost += lost
    return saved


def _write_artifact(file: BinaryIO, artifact: Artifact, root: Path) -> bool:
    start = file.tell()
    try:
        chunks = _checked_chunks(root / artifact.path, artifact)
        write_member(file, artifact.name, artifact.size, chunks)
    except _Lost:
        _take_back(file, start)
        return False
    return True


def _take_back(file: BinaryIO, start: int) -> None:
    file.seek(start)
    file.truncate()


def _checked_chunks(path: Path, artifact: Artifact) -> Iterator[bytes]:
    """Yield an artifact's content. Raises _Lost, in the end for what is not as it was uploaded."""
    if not backup_file.is_artifact_name(artifact.name):
        raise _Lost
    digest, size = hashlib.sha256(), 0
    for chunk in _read_or_lose(path):
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if size != artifact.size or digest.hexdigest() != artifact.sha256:
        raise _Lost


def _read_or_lose(path: Path) -> Iterator[bytes]:
    # Apart from the writing, whose errors are of the backup's disk.
    try:
        with path.open("rb") as source:
            while chunk := source.read(_PIECE_BYTES):
                yield chunk
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise _Lost from exc


def _write_file(file: BinaryIO, name: str, path: Path) -> str:
    """Write a member from a file of our own; return its SHA-256."""
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as source:
            while chunk := source.read(_PIECE_BYTES):
                digest.update(chunk)
                yield chunk

    write_member(file, name, path.stat().st_size, chunks())
    return digest.hexdigest()


def _write_secret_key(file: BinaryIO, settings: Settings) -> str:
    """Write the signing key where the server keeps one; return its SHA-256, or nothing."""
    if settings.secret_key is not None or not settings.secret_key_path.exists():
        return ""
    return _write_file(file, backup_file.SECRET_KEY, settings.secret_key_path)
