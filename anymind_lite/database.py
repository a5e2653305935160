"""The SQLite database: how it is opened, how it is written to, when its disk is full.

One file in WAL mode with `synchronous=FULL`: what a client was told is done survives a power cut
(SQLite manual, "Pragma synchronous": NORMAL may roll acknowledged commits back in WAL mode).
Readers never wait. Writers go one at a time through `write_transaction()`.
"""

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from peewee import DatabaseError, DatabaseProxy, ModelSelect, OperationalError, SqliteDatabase
from playhouse.migrations import Runner

from anymind_lite.errors import StartupError

MIGRATIONS_DIR = Path(__file__).parent / "migrations"

# Models are declared against this proxy; `Backend.start()` points it at the opened file.
database = DatabaseProxy()

# SQLite lets one writer in at a time anyway, but makes the others poll: a queue of our own is
# fairer and turns lock errors into short waits.
_write_lock = threading.RLock()

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "journal_size_limit": 4 * 1024 * 1024,
    "mmap_size": 0,
}
_LOCK_TIMEOUT_SECONDS = 10
# Where another program keeps the database locked, each writer waits for it in turn: without an end
# to the turns the last of a crowd would wait for minutes.
_TURN_TIMEOUT_SECONDS = 30
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class ServerDatabase(SqliteDatabase):
    """A `SqliteDatabase` that can close the connections of all threads.

    Peewee keeps one connection per thread; those of pool threads outlive any request.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            str(path), pragmas=_PRAGMAS, timeout=_LOCK_TIMEOUT_SECONDS, check_same_thread=False
        )
        self._opened: list[sqlite3.Connection] = []

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = super()._connect()
        self._opened.append(connection)
        return connection

    def close_all(self) -> None:
        """Close every thread's connection; no thread may use the database any more."""
        self.close()
        for connection in self._opened:
            connection.close()
        self._opened.clear()


def open_database(path: Path) -> ServerDatabase:
    """Open or create the file, check it, bring its schema up to date and point the models at it.

    Raises StartupError when the file is damaged, no database, or of a newer version.
    """
    opened = ServerDatabase(path)
    try:
        _check_health(opened, path)
        _migrate(opened, path)
    except BaseException:
        opened.close_all()
        raise
    path.chmod(0o600)
    database.initialize(opened)
    return opened


def _check_health(opened: ServerDatabase, path: Path) -> None:
    try:
        verdict = opened.execute_sql("PRAGMA quick_check(1)").fetchone()[0]
    except DatabaseError as exc:
        raise StartupError(_why_unreadable(path, exc)) from exc
    if verdict != "ok":
        what = " ".join(verdict.split())  # it may have several lines
        raise StartupError(f"The database {path} is damaged ({what}). Restore it from a backup.")


def _why_unreadable(path: Path, error: DatabaseError) -> str:
    # On a full disk too there is an "I/O error": SQLite has no room for the index of its log, and
    # nothing is wrong with the database. (test_a_server_on_a_full_disk_starts_or_says_why_not)
    if is_disk_full(error) or "disk I/O error" in str(error):
        return (
            f"The database {path} cannot be opened ({error}). Its disk is full or fails: "
            "make room, or see the system's log, and start again."
        )
    return (
        f"The database {path} cannot be read ({error}). Restore it from a backup, or move it away."
    )


def _migrate(opened: ServerDatabase, path: Path) -> None:
    runner = Runner(opened, directory=str(MIGRATIONS_DIR))
    unknown = [migration.name for migration in runner.status() if migration.path is None]
    if unknown:
        raise StartupError(
            f"The database {path} was written by a newer version of Anymind Lite "
            f"(it has {unknown[-1]}). Upgrade this installation, or use another data folder."
        )
    if not runner.applied() and (foreign := _tables_of_others(opened, runner)):
        raise StartupError(
            f"The database {path} belongs to another program (it has the table {foreign[0]}). "
            "Set DATABASE_URL to another file."
        )
    runner.up()


def _tables_of_others(opened: ServerDatabase, runner: Runner) -> list[str]:
    # The migrations' own table may stand there without a row: a start was killed right after it.
    names = [name for name in opened.get_tables() if name != runner.table_name]
    return [name for name in names if not name.startswith("sqlite_")]


@contextmanager
def write_transaction() -> Iterator[None]:
    """Run the block as one durable transaction, alone; nothing of it stays when it raises.

    BEGIN IMMEDIATE, because a transaction that reads first and writes later fails at once, whatever
    the timeout, when another writer came between (SQLite manual, "Transaction", SQLITE_BUSY).
    Keep the block short: no agent code, no file, no network inside. Raises OperationalError when
    its turn does not come.
    """
    if not _write_lock.acquire(timeout=_TURN_TIMEOUT_SECONDS):
        raise OperationalError("database is locked")
    try:
        with database.atomic("IMMEDIATE"):
            yield
    finally:
        _write_lock.release()


class PreparedSelect:
    """A select whose SQL is rendered once, for statements that every request needs.

    Peewee takes some 250 us to write the SQL of a query that SQLite answers in 6. The values in the
    query only hold the places of those that `find` gets, in the order in which they stand.
    """

    def __init__(self, query: ModelSelect) -> None:
        self._query = query

    @cached_property
    def _sql(self) -> str:
        # Not at import: the dialect is known only once a database is open.
        sql: str = self._query.sql()[0]
        return sql

    def find(self, *values: object) -> Any:
        """Return the first row as a model, or None."""
        return next(iter(list(self._query.model.raw(self._sql, *values))), None)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, or one that it hides, is a full disk or an exhausted quota."""
    # Peewee's own ROLLBACK fails after SQLITE_FULL and hides the cause behind its error.
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if "database or disk is full" in str(one) or getattr(one, "errno", 0) in _FULL_ERRNOS:
            return True
        seen.add(id(one))
        hidden = (one.__cause__, one.__context__)
        waiting += [each for each in hidden if each is not None and id(each) not in seen]
    return False
