"""The SQLite database: how it is opened, how it is written to, when its disk is full.

One file in WAL mode with `synchronous=FULL`: what a client was told is done survives a power cut
(SQLite manual, "Pragma synchronous": NORMAL may roll acknowledged commits back in WAL mode). Only
what nobody is told may be committed without a flush, by `write_transaction(is_durable=False)`.
Readers never wait. Writers go one at a time through `write_transaction()`, on one connection.
Before the schema of a database changes, a copy of it is kept.
"""

import contextlib
import errno
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from peewee import (
    DatabaseError,
    DatabaseProxy,
    Field,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    ModelInsert,
    ModelSelect,
    ModelUpdate,
    OperationalError,
    SqliteDatabase,
    TextField,
    Value,
)

from anymind_lite.clock import utc_now
from anymind_lite.errors import BackupError, DatabaseDamaged, StartupError, quoted
from anymind_lite.files import fsync_dir, fsync_file, make_dir_durable
from anymind_lite.group_commit import GroupCommit, GroupFailed

logger = logging.getLogger(__name__)

MIGRATIONS_DIR = Path(__file__).parent / "migrations"
_MIGRATIONS_TABLE = "schema_migration"

# Models are declared against this proxy; `Backend.start()` points it at the opened file.
database = DatabaseProxy()

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "journal_size_limit": 4 * 1024 * 1024,
    "mmap_size": 0,
    # KiB, of each thread's connection, and there are some 120: SQLite's own 2,000 come to 200 MB
    # once all have read long lists. The system caches the file for all of them.
    "cache_size": -512,
}
# A commit that finds so much in the log writes it into the file: SQLite's own number.
_LOG_PAGES = 1000
_LOCK_TIMEOUT_SECONDS = 10
_ASK_AGAIN_SECONDS = 0.0001
# Where each writer takes long, as on a disk that fails, the last of a crowd would wait for minutes.
_TURN_TIMEOUT_SECONDS = 30
# What is checked before the server serves: all of a file of this size, which takes half a second,
# and of a larger one every table but the one that grows with use.
_WHOLE_CHECK_BYTES = 32 << 20
_GROWING_TABLE = "execution"
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

_APPLIED = "SELECT name FROM schema_migration ORDER BY name"

_KEPT_BACKUPS = 5
_BACKUP_NAME = re.compile(r"before-\w+-([0-9]{8}T[0-9]{12}Z)\.sqlite3")


class ServerDatabase(SqliteDatabase):
    """A `SqliteDatabase` that can close the connections of all threads.

    Peewee keeps one connection per thread; those of pool threads outlive any request.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            str(path), pragmas=_PRAGMAS, timeout=_LOCK_TIMEOUT_SECONDS, check_same_thread=False
        )
        self._opened: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        # SQLite lets one writer in at a time anyway, but makes the others poll: turns of our own
        # are fairer and turn lock errors into short waits.
        self._groups = GroupCommit(_WriterSteps(self))
        self.path = path
        self.is_checked_whole = False
        self.damage = ""  # what `search_damage` found

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = super()._connect()
        self._opened.append(connection)
        return connection

    def open_writer(self) -> None:
        """Open the connection that all writes go through."""
        self._writer = self._connect()
        self._writer.execute("PRAGMA busy_timeout = 0")  # `begin_soon` has the patience
        # Some builds of SQLite, Debian's among them, overwrite all that is deleted with zeros. FAST
        # does so where the page is written in any case (SQLite manual, "PRAGMA secure_delete").
        self._writer.execute("PRAGMA secure_delete = FAST")

    @contextmanager
    def write(self, *, is_durable: bool) -> Iterator[None]:
        """Run the block as a transaction of its own, through the connection that writes."""
        own = self.connection()
        self._state.conn = self._writer
        try:
            with self._groups.transaction(is_durable=is_durable, timeout=_TURN_TIMEOUT_SECONDS):
                self.push_transaction(self._groups)  # Peewee makes savepoints of what is inside
                try:
                    yield
                finally:
                    self.pop_transaction()
        except TimeoutError as exc:
            raise OperationalError("database is locked") from exc
        except GroupFailed as exc:
            raise OperationalError(str(exc)) from exc
        finally:
            self._state.conn = own

    @contextmanager
    def light_commits(self) -> Iterator[None]:
        """Let no commit write the log into the file, a flush of a thousand pages: `empty_log` does.

        Two at once are no harm: the end of the first lets commits do it again.
        """
        self._let_log_grow(0)
        try:
            yield
        finally:
            self._let_log_grow(_LOG_PAGES)

    def _let_log_grow(self, pages: int) -> None:
        """Have commits write the log into the file when it is so long; 0 for never."""
        if self._writer is not None:
            self._writer.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    def empty_log(self) -> None:
        """Write the log into the file, as far as nobody reads it; writers do not wait for that."""
        self.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def begin_soon(self, since: float) -> None:
        """Begin to write; wait for the lock of another program, up to `timeout` seconds in all.

        They count from `since`, an instant of the monotonic clock: who stood in line meanwhile has
        waited for that lock behind others.

        SQLite's own patience sleeps longer and longer between two looks, up to 100 ms, and finds
        the lock taken anew by a program that writes all the time: 2 s went by (bench/writers.py).
        """
        deadline = since + self.timeout
        while True:
            try:
                self.begin("IMMEDIATE")
                return
            except OperationalError as exc:
                if not is_locked(exc) or time.monotonic() >= deadline:
                    raise
            time.sleep(_ASK_AGAIN_SECONDS)

    def close_all(self) -> None:
        """Close every thread's connection; no thread may use the database any more."""
        self.close()
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._writer = None


class _WriterSteps:
    """The steps of group commit, on the connection that writes."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database

    def begin(self, *, is_durable: bool, since: float) -> None:
        if self.is_open:
            self.roll_back()
        # Here, as SQLite does not let it change inside a transaction.
        level = _PRAGMAS["synchronous"] if is_durable else "normal"
        self._database.execute_sql(f"PRAGMA synchronous = {level}")
        self._database.begin_soon(since)

    def commit(self) -> None:
        self._database.commit()

    def roll_back(self) -> None:
        self._database.rollback()

    def begin_part(self) -> None:
        self._database.execute_sql("SAVEPOINT part")

    def end_part(self) -> None:
        self._database.execute_sql("RELEASE part")

    def undo_part(self) -> None:
        self._database.execute_sql("ROLLBACK TO part")
        self.end_part()

    @property
    def is_open(self) -> bool:
        return bool(self._database.connection().in_transaction)


def open_database(path: Path, *, backups: Path | None = None) -> ServerDatabase:
    """Open or create the file, check it, bring its schema up to date and point the models at it.

    `backups` is the folder for the copy that is made before the schema changes; unset: a folder of
    that name beside the file. Raises StartupError when the file is damaged, no database, or of a
    newer version, or when that copy cannot be made.
    """
    opened = ServerDatabase(path)
    try:
        _check_health(opened, path)
        _migrate(opened, path, backups or path.with_name("backups"))
        opened.open_writer()
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
        raise StartupError(_why_unreadable(path, exc)) from exc
    if verdict != "ok":
        what = " ".join(verdict.split())  # it may have several lines
        raise StartupError(f"The database {path} is damaged ({what}). Restore it from a backup.")
    if opened.is_checked_whole:
        _damage_note(path).unlink(missing_ok=True)


def _why_unreadable(path: Path, error: Exception) -> str:
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


def _migrate(opened: ServerDatabase, path: Path, backups: Path) -> None:
    """Apply the migrations that are missing, each with its record in one transaction (Runner)."""
    if _is_migrated(opened):
        return
    from playhouse.migrations import Runner  # 15 ms, for one start in many

    runner = Runner(opened, directory=str(MIGRATIONS_DIR), table_name=_MIGRATIONS_TABLE)
    unknown = [migration.name for migration in runner.status() if migration.path is None]
    if unknown:
        raise StartupError(
            f"The database {path} was written by a newer version of Anymind Lite "
            f"(it has {unknown[-1]}). Upgrade this installation, or use another data folder."
        )
    if not runner.applied() and (foreign := _tables_of_others(opened)):
        raise StartupError(
            f"The database {path} belongs to another program (it has the table {foreign[0]}). "
            "Set DATABASE_URL to another file."
        )
    pending = [migration.name for migration in runner.status() if not migration.applied]
    if pending and runner.applied():
        _back_up_before(pending[0], path, backups)
    runner.up()


def _is_migrated(opened: ServerDatabase) -> bool:
    """Tell whether exactly the migrations that there are have been applied."""
    if not opened.table_exists(_MIGRATIONS_TABLE):
        return False
    rows = opened.execute_sql(f"SELECT name FROM {_MIGRATIONS_TABLE}")  # noqa: S608 - a constant
    return {name for (name,) in rows} == {path.stem for path in MIGRATIONS_DIR.glob("[0-9]*.py")}


def _back_up_before(migration: str, path: Path, backups: Path) -> None:
    """Keep a copy of the database as it was before a migration. Raises StartupError."""
    unfinished = backups / ".unfinished"
    try:
        make_dir_durable(backups)
        remove_copy(unfinished)
        copy_database(path, unfinished)
        kept = backups / f"before-{migration}-{utc_now():%Y%m%dT%H%M%S%fZ}.sqlite3"
        unfinished.rename(kept)
        fsync_dir(backups)
        _prune_backups(backups, newest=kept)
    except (OSError, sqlite3.Error) as exc:
        megabytes = path.stat().st_size // 1_000_000 + 1
        raise StartupError(
            f"The database {path} must be upgraded, and the copy that is kept of it before that "
            f"cannot be written to {backups} ({exc}). Nothing was changed. Make the folder "
            f"writable, with {megabytes} MB of room, and start again."
        ) from exc


def _prune_backups(backups: Path, *, newest: Path) -> None:
    # By the instants in their names, but never the newest: the clock may have been set back.
    found = [(match[1], path) for path in backups.iterdir() if (match := _matched(path))]
    others = sorted(one for one in found if one[1] != newest)
    for _instant, path in others[: 1 - _KEPT_BACKUPS]:
        path.unlink(missing_ok=True)


def _matched(path: Path) -> re.Match[str] | None:
    return _BACKUP_NAME.fullmatch(path.name)


def _tables_of_others(opened: ServerDatabase) -> list[str]:
    # The migrations' own table may stand there without a row: a start was killed right after it.
    names = [name for name in opened.get_tables() if name != _MIGRATIONS_TABLE]
    return [name for name in names if not name.startswith("sqlite_")]


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database that a server may be writing to, for reading alone; never makes one.

    In WAL mode readers and the writer do not wait for each other. A connection that cannot write
    the file cannot take the log back into it either (SQLite manual, "Write-Ahead Logging").
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=_LOCK_TIMEOUT_SECONDS,
        isolation_level=None,
    )


def copy_database(source: Path, target: Path) -> None:
    """Write one snapshot of a database, durably, to a file that is not there yet.

    The copy is whole in itself, without a log beside it; making its name durable is the caller's.
    Raises OSError and sqlite3.Error, and leaves no target then.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(open_to_read(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(target.absolute()),))
        fsync_file(target)
    except BaseException:
        remove_copy(target)
        raise


def remove_copy(path: Path) -> None:
    """Delete a copy that `copy_database` made or began; does nothing when there is none.

    A process that was killed in the middle leaves a journal beside it, which SQLite would take for
    one of the next file of that name.
    """
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)


def check_copy(connection: sqlite3.Connection) -> str:
    """Return the last migration of a sound copy of a database of ours.

    Raises BackupError, its text beginning with "The database", for one that is damaged, of another
    program, or of a newer version.
    """
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        applied = [name for (name,) in connection.execute(_APPLIED)]
    except sqlite3.Error as exc:
        raise BackupError(f"The database cannot be read ({exc}).") from exc
    if verdict != "ok":
        raise BackupError(f"The database is damaged ({quoted(verdict)}).")
    known = {path.stem for path in MIGRATIONS_DIR.glob("[0-9]*.py")}
    if unknown := [name for name in applied if name not in known]:
        raise BackupError(
            f"The database is of a newer version of Anymind Lite (it has {quoted(unknown[-1])}). "
            "Upgrade this installation."
        )
    if not applied:
        raise BackupError("The database is not one of Anymind Lite.")
    return str(applied[-1])


def write_transaction(*, is_durable: bool = True) -> AbstractContextManager[None]:
    """Run the block as one durable transaction, alone; nothing of it stays when it raises.

    BEGIN IMMEDIATE, because a transaction that reads first and writes later fails at once, whatever
    the timeout, when another writer came between (SQLite manual, "Transaction", SQLITE_BUSY).
    Keep the block short: no agent code, no file, no network inside. It may be committed with those
    of other threads, which come after it or before. Raises DatabaseDamaged, and OperationalError
    when its turn does not come or it cannot be committed.

    One that is not durable survives the death of this process at once, and a power cut only when a
    durable one has followed, which flushes the log with both: for what nobody is told yet. Inside
    another transaction it is as durable as that one.
    """
    if database.damage:
        raise DatabaseDamaged(
            "The server's database is damaged and takes no changes; it must be restored from a "
            "backup"
        )
    if database.in_transaction():
        return cast(AbstractContextManager[None], database.atomic())
    return cast(AbstractContextManager[None], database.write(is_durable=is_durable))


def row_of(model: type[Model], columns: dict[str, Any]) -> Any:
    """Return a model that holds these columns, as Peewee makes those of a select.

    Past the attributes, which would take longer than SQLite needs to find the row.
    """
    row = model(__no_default__=1)
    row.__data__.update(columns)
    return row


@dataclass(frozen=True)
class _Columns:
    """The names of a select's columns, what reads those that need it, and which are no fields."""

    names: tuple[str, ...]
    readers: dict[str, Callable[[Any], Any]]
    aliases: tuple[str, ...]


# What SQLite itself keeps and gives back as it is, by the column's affinity.
_PLAIN_FIELDS = (TextField, IntegerField, FloatField, ForeignKeyField)


def _is_converted(field: Field) -> bool:
    """Tell whether what SQLite holds of a field is not its value."""
    return not isinstance(field, _PLAIN_FIELDS)


class PreparedSelect:
    """A select whose SQL is rendered once, for statements that every request needs.

    Peewee takes some 250 us to write the SQL of a query that SQLite answers in 6, and some 80 to
    find out what its columns are. The values in the query only hold the places of those that `find`
    gets, in the order in which they stand. What is selected are columns of the query's own model,
    and others by an alias.
    """

    def __init__(self, query: ModelSelect) -> None:
        self._query = query

    @cached_property
    def _sql(self) -> str:
        # Not at import: the dialect is known only once a database is open.
        sql: str = self._query.sql()[0]
        return sql

    @cached_property
    def _columns(self) -> _Columns:
        columns = self._query.selected_columns
        fields = {one.name: one.unwrap() for one in columns}
        return _Columns(
            tuple(fields),
            {name: one.python_value for name, one in fields.items() if _is_converted(one)},
            tuple(one.name for one in columns if not isinstance(one, Field)),
        )

    def find(self, *values: object) -> Any:
        """Return the first row as a model, or None."""
        # All rows, or the statement would pin the write-ahead log until it is collected.
        rows = database.execute_sql(self._sql, values).fetchall()
        if not rows:
            return None
        columns = self._columns
        found = dict(zip(columns.names, rows[0], strict=True))
        for name, read in columns.readers.items():
            found[name] = read(found[name])
        row = row_of(self._query.model, found)
        for name in columns.aliases:
            setattr(row, name, row.__data__.pop(name))
        return row


@dataclass(frozen=True)
class _Place:
    """Where in a `PreparedWrite` a value goes, and how it is written, if not as it is."""

    name: str
    write: Callable[[Any], Any] | None


def blank(field: Field, name: str = "") -> Value:
    """Stand in a `PreparedWrite` for a value of a field that comes later; named as it, or so."""
    write = field.db_value if _is_converted(field) else None
    return Value(_Place(name or field.name, write), converter=False, unpack=False)


def blanks(*fields: Field) -> dict[Field, Value]:
    """Return a blank for each of these fields, as `insert` and `update` take them."""
    return {field: blank(field) for field in fields}


class PreparedWrite:
    """An insert or update whose SQL is rendered once; every value in it is a `blank`."""

    def __init__(self, query: ModelInsert | ModelUpdate) -> None:
        self._query = query

    @cached_property
    def _rendered(self) -> tuple[str, list[_Place]]:
        sql, places = self._query.sql()
        return sql, places

    def run(self, **values: object) -> Any:
        """Execute it with a value for each blank, by name; returns the cursor."""
        sql, places = self._rendered
        written = [
            values[one.name] if one.write is None else one.write(values[one.name]) for one in places
        ]
        return database.execute_sql(sql, written)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, or one that it hides, is a full disk or an exhausted quota."""
    return any(
        "database or disk is full" in str(one) or getattr(one, "errno", 0) in _FULL_ERRNOS
        for one in _with_hidden(error)
    )


def is_locked(error: BaseException) -> bool:
    """Tell whether an error, or one that it hides, is another program's lock on the database."""
    return any(
        isinstance(one, OperationalError | sqlite3.OperationalError)
        and "database is locked" in str(one)
        for one in _with_hidden(error)
    )


def _with_hidden(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it hides.

    Peewee's own ROLLBACK fails after SQLITE_FULL and hides the cause behind its error.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        yield one
        seen.add(id(one))
        hidden = (one.__cause__, one.__context__)
        waiting += [each for each in hidden if each is not None and id(each) not in seen]
