"""The SQLite database: how it is opened, how it is written to, when its disk is full.

One file in WAL mode with `synchronous=FULL`: what a client was told is done survives a power cut
(SQLite manual, "Pragma synchronous": NORMAL may roll acknowledged commits back in WAL mode).
Readers never wait. Writers go one at a time through `write_transaction()`.
"""

import contextlib
import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from peewee import DatabaseError, DatabaseProxy, ModelSelect, SqliteDatabase
from playhouse.migrations import Runner

from anymind_lite.errors import DatabaseDamaged, StartupError

logger = logging.getLogger(__name__)

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
# What is checked before the server serves: all of a file of this size, which takes half a second,
# and of a larger one every table but the one that grows with use.
_WHOLE_CHECK_BYTES = 32 << 20
_GROWING_TABLE = "execution"
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
        self.path = path
        self.is_checked_whole = False
        self.damage = ""  # what `search_damage` found

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


def _damage_note(path: Path) -> Path:
    """Where it is noted that damage was found while serving: the next start looks at all."""
    return path.with_name(f"{path.name}.damaged")


def _check_health(opened: ServerDatabase, path: Path) -> None:
    try:
        verdict = _quick_check(opened, path)
    except (DatabaseError, sqlite3.DatabaseError) as exc:  # Peewee's own, and of a later row
        raise StartupError(
            f"The database {path} cannot be read ({exc}). "
            "Restore it from a backup, or move it away."
        ) from exc
    if verdict != "ok":
        raise StartupError(f"The database {path} is damaged ({verdict}). Restore it from a backup.")
    if opened.is_checked_whole:
        _damage_note(path).unlink(missing_ok=True)


def _quick_check(opened: ServerDatabase, path: Path) -> str:
    """Return "ok", or what is wrong with what was looked at. Raises errors of the database."""
    pages, page_bytes = (
        opened.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    is_small = pages * page_bytes <= _WHOLE_CHECK_BYTES
    opened.is_checked_whole = is_small or _damage_note(path).exists()
    if opened.is_checked_whole:
        return str(opened.execute_sql("PRAGMA quick_check(1)").fetchone()[0])
    tables = (name for name in opened.get_tables() if name != _GROWING_TABLE)
    verdicts = (
        str(opened.execute_sql(f'PRAGMA quick_check("{name}")').fetchone()[0]) for name in tables
    )
    return next((verdict for verdict in verdicts if verdict != "ok"), "ok")


def search_damage(opened: ServerDatabase) -> Callable[[], None]:
    """Check on a thread what was not checked before serving; return what ends that.

    When something is found nothing more is written, so that it grows no larger, and the next start
    refuses. A connection of its own: the check is one statement that takes seconds or minutes.
    """
    if opened.is_checked_whole:
        return lambda: None
    address = f"{opened.path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    thread = threading.Thread(target=_search, args=(opened, connection), name="damage-search")
    thread.start()

    def end() -> None:
        while thread.is_alive():
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed just now
                connection.interrupt()
            thread.join(0.05)

    return end


def _search(opened: ServerDatabase, connection: sqlite3.Connection) -> None:
    with closing(connection):
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.OperationalError as exc:  # interrupted, or the disk cannot be read now
            logger.info("event=database_check_ended reason=%r", str(exc))
            return
        except sqlite3.DatabaseError as exc:
            verdict = str(exc)
    if verdict == "ok":
        opened.is_checked_whole = True
        return
    opened.damage = verdict
    logger.error("event=database_damaged path=%s verdict=%r", opened.path, verdict)
    with contextlib.suppress(OSError):
        _damage_note(opened.path).touch(mode=0o600)


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
    Keep the block short: no agent code, no file, no network inside. Raises DatabaseDamaged.
    """
    if database.damage:
        raise DatabaseDamaged(
            "The server's database is damaged and takes no changes; it must be restored from a "
            "backup"
        )
    with _write_lock, database.atomic("IMMEDIATE"):
        yield


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
