"""Restoring a backup into a data folder that holds nothing yet.

All of it is written beside the final places and checked there. Then the artifacts get their name,
the signing key, and the database last. A mark stands in the data folder from before the first file
until after the last name: while it stands no server starts, and whatever is there was put there by
a restore, so the next restore may sweep it.
"""

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anymind_lite import backup_file
from anymind_lite.backup_file import (
    Contents,
    Member,
    is_artifact_name,
    list_members,
    read_contents,
    read_pieces,
    read_small,
)
from anymind_lite.config import Settings
from anymind_lite.database import check_copy, is_disk_full, open_to_read
from anymind_lite.errors import BackupError
from anymind_lite.files import fsync_dir, make_dir_durable, remove_tree, write_durable

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MARK = b"A backup is being restored here. Until that has ended no server starts.\n"
_ROW = "SELECT tarball_sha256, tarball_bytes FROM agent_version WHERE tarball_path = ?"
_DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Found:
    """What stands in a backup, apart from the artifacts."""

    contents: Contents
    database: Member
    secret_key: bytes


@dataclass(frozen=True)
class Places:
    """Where things go, and where they wait until all of them are there."""

    mark: Path
    database: Path
    waiting_database: Path
    artifacts: Path
    waiting_artifacts: Path
    secret_key: Path

    @property
    def agents(self) -> Path:
        """The folder of all artifacts."""
        return self.artifacts / "agents"


def _places(settings: Settings) -> Places:
    database = settings.database_path
    return Places(
        mark=settings.restore_mark_path,
        database=database,
        waiting_database=database.with_name(f".{database.name}.restoring"),
        artifacts=settings.storage_path,
        waiting_artifacts=settings.storage_path / ".restoring",
        secret_key=settings.secret_key_path,
    )


def restore_backup(
    source: Path, settings: Settings, *, lock: AbstractContextManager[object]
) -> Contents:
    """Check a backup as a whole, put it in place durably, and return what it says of itself.

    `lock` keeps servers and other restores off the data folder. Raises BackupError, and what `lock`
    raises, also for a data folder that holds something; then nothing has changed there.
    """
    try:
        with _opened(source) as file:
            found = _look_through(file, source)
            make_dir_durable(settings.run_path)
            with lock:
                _restore(file, found, _places(settings))
    except (OSError, sqlite3.Error) as exc:
        raise BackupError(_explained(exc, settings, source)) from exc
    return found.contents


def _explained(error: Exception, settings: Settings, source: Path) -> str:
    if is_disk_full(error):
        size = source.stat().st_size // 1_000_000 + 1
        return f"The disk is full: {settings.data_dir} needs room for {size} MB. Nothing was kept."
    return f"{source} cannot be restored into {settings.data_dir}: {error}"


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    # Without O_NONBLOCK a named pipe would be waited for.
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BackupError(f"{source} is not a file.")
        yield file


# The backup, which may be damaged -----------------------------------------------------------------


def _look_through(file: BinaryIO, source: Path) -> Found:
    """Check the form of a backup, without the contents of its large members."""
    try:
        named = {one.name: one for one in list_members(file) if not is_artifact_name(one.name)}
        contents = read_contents(read_small(file, named[backup_file.CONTENTS]))
        member = named.get(backup_file.SECRET_KEY)
        key = read_small(file, member) if member else b""
        expected = hashlib.sha256(key).hexdigest() if member else ""
        if contents.secret_key_sha256 != expected:
            raise BackupError("its signing key is damaged")
    except BackupError as exc:
        raise BackupError(f"{source} cannot be restored: {exc}. Nothing was changed.") from exc
    return Found(contents, named[backup_file.DATABASE], key)


def _damaged(what: str) -> BackupError:
    return BackupError(f"The backup is damaged: {what}. Nothing was changed.")


def _extract(file: BinaryIO, member: Member, target: Path) -> str:
    """Write a member to a new file, durably; return its SHA-256."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(target, _NEW_FILE, 0o600), "wb") as written:
        for piece in read_pieces(file, member):
            digest.update(piece)
            written.write(piece)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


# The data folder ----------------------------------------------------------------------------------


def _restore(file: BinaryIO, found: Found, places: Places) -> None:
    _make_way(found, places)
    write_durable(places.mark, _MARK)
    try:
        make_dir_durable(places.database.parent)
        make_dir_durable(places.waiting_artifacts)
        _put_database_ready(file, found, places)
        _put_artifacts_ready(file, found.contents, places)
    except BaseException:
        _sweep(places)
        _remove_mark(places)
        raise
    _publish(found, places)


def _make_way(found: Found, places: Places) -> None:
    """Sweep what an earlier restore left; refuse to touch anything else. Raises BackupError."""
    if places.mark.exists():
        if places.database.exists():
            _sweep(places)
            _remove_mark(places)
            raise BackupError(
                f"{places.mark.parent} holds all of a backup already, restored by an earlier "
                "command that was ended at its last step. Start the server."
            )
        remove_tree(places.agents)
        _sweep(places)
    else:
        _refuse_other_key(found, places)
    _refuse_occupied(places)


def _refuse_occupied(places: Places) -> None:
    standing = [places.database.with_name(places.database.name + s) for s in _DATABASE_SUFFIXES]
    if places.agents.is_dir() and not any(places.agents.iterdir()):
        places.agents.rmdir()
    for path in (*standing, places.agents):
        if os.path.lexists(path):
            raise BackupError(
                f"{path} exists, and a restore overwrites nothing. Move it away, "
                "or name another data folder with --data."
            )


def _refuse_other_key(found: Found, places: Places) -> None:
    path = places.secret_key
    if found.secret_key and path.exists() and path.read_bytes() != found.secret_key:
        raise BackupError(f"{path} exists and differs from the key in the backup. Move it away.")


def _put_database_ready(file: BinaryIO, found: Found, places: Places) -> None:
    if _extract(file, found.database, places.waiting_database) != found.contents.database_sha256:
        raise _damaged("its database is not what was saved")
    with closing(open_to_read(places.waiting_database)) as copy:
        if check_copy(copy) != found.contents.schema:
            raise _damaged("its database has another schema than it says")
        (versions,) = copy.execute("SELECT count(*) FROM agent_version").fetchone()
    if versions != found.contents.artifacts + found.contents.missing:
        raise _damaged("its database names another number of artifacts than it says")


def _put_artifacts_ready(file: BinaryIO, contents: Contents, places: Places) -> None:
    count, folders = 0, set[Path]()
    with closing(open_to_read(places.waiting_database)) as copy:
        for member in list_members(file):
            if is_artifact_name(member.name):
                folders.add(_put_artifact_ready(file, member, copy, places.waiting_artifacts))
                count += 1
    if count != contents.artifacts:
        raise _damaged("it lacks artifacts that it says it has")
    for folder in folders:
        fsync_dir(folder)


def _put_artifact_ready(
    file: BinaryIO, member: Member, copy: sqlite3.Connection, root: Path
) -> Path:
    """Write one artifact and return its folder, where its name must be made durable.

    Its name has no part but those of `is_artifact_name`, so it stays below `root`.
    """
    path = member.name.removeprefix(backup_file.ARTIFACTS)
    row = copy.execute(_ROW, (path,)).fetchone()
    target = root / path
    if row is None or row[1] != member.size or target.exists():
        raise _damaged(f"its database does not know {path}")
    make_dir_durable(target.parent)
    if _extract(file, member, target) != row[0]:
        raise _damaged(f"{path} is not what was uploaded")
    return target.parent


def _publish(found: Found, places: Places) -> None:
    """Give everything its final name, the database last: without it no server begins."""
    waiting = places.waiting_artifacts / "agents"
    if waiting.exists():
        waiting.rename(places.agents)
        fsync_dir(places.artifacts)
    if found.secret_key:
        write_durable(places.secret_key, found.secret_key)
    places.waiting_database.rename(places.database)
    fsync_dir(places.database.parent)
    _sweep(places)
    _remove_mark(places)


def _sweep(places: Places) -> None:
    for suffix in _DATABASE_SUFFIXES:
        name = places.waiting_database.name + suffix
        places.waiting_database.with_name(name).unlink(missing_ok=True)
    remove_tree(places.waiting_artifacts)


def _remove_mark(places: Places) -> None:
    places.mark.unlink(missing_ok=True)
    fsync_dir(places.mark.parent)
