"""The database: pragmas, writing one at a time, upgrades, copies, what is refused, a full disk."""

import errno
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from peewee import DatabaseError, IntegrityError, OperationalError
from playhouse.migrations import Runner

from anymind_lite import database as database_module
from anymind_lite.database import (
    MIGRATIONS_DIR,
    PreparedSelect,
    PreparedWrite,
    ServerDatabase,
    blank,
    blanks,
    copy_database,
    is_disk_full,
    is_locked,
    open_database,
    open_to_read,
    search_damage,
    write_transaction,
)
from anymind_lite.errors import DatabaseDamaged, StartupError
from anymind_lite.models import Agent, AgentStatus, User
from tests.unit.conftest import Rows
from tests.waiting import DEADLINE_SECONDS, wait_for

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "other.sqlite3"


def close(path: Path) -> None:
    open_database(path).close_all()


class TestOpen:
    @pytest.mark.parametrize(
        ("pragma", "value"),
        [
            ("journal_mode", "wal"),
            ("synchronous", 2),  # FULL
            ("foreign_keys", 1),
            ("journal_size_limit", 4 * 1024 * 1024),
            ("mmap_size", 0),
            ("cache_size", -512),
            ("busy_timeout", 10_000),
        ],
    )
    def test_pragmas_are_in_force_on_every_threads_connection(
        self, database: ServerDatabase, pragma: str, value: object
    ) -> None:
        def look() -> object:
            row = database.execute_sql(f"PRAGMA {pragma}").fetchone()
            return row[0] if row else 0  # without mmap SQLite answers mmap_size with nothing

        with ThreadPoolExecutor(1) as thread:
            assert [look(), thread.submit(look).result()] == [value, value]

    def test_the_file_is_its_owners_alone(self, database: ServerDatabase, tmp_path: Path) -> None:
        assert stat.S_IMODE((tmp_path / "anymind.sqlite3").stat().st_mode) == 0o600

    def test_what_was_written_is_there_after_reopening(self, rows: Rows, tmp_path: Path) -> None:
        user = rows.user()
        opened = open_database(tmp_path / "anymind.sqlite3")
        assert User.get_by_id(user.id).email == user.email
        opened.close_all()

    def test_closing_reaches_the_connections_of_all_threads(self, path: Path) -> None:
        opened = open_database(path)
        with ThreadPoolExecutor(4) as threads:
            barrier = threading.Barrier(4)

            def connect() -> sqlite3.Connection:
                barrier.wait(DEADLINE_SECONDS)
                connection: sqlite3.Connection = opened.connection()
                return connection

            futures = [threads.submit(connect) for _ in range(4)]
            connections = [future.result() for future in futures]
            opened.close_all()
        for connection in connections:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("SELECT 1")


def spoil_header(path: Path) -> None:
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def spoil_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 200] = b"\xaa" * 200
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def put_text(path: Path) -> None:
    path.write_text("no database at all\n" * 100)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


class TestRefusal:
    @pytest.mark.parametrize("spoil", [spoil_header, spoil_pages, cut, put_text, put_folder])
    def test_what_is_no_sound_database_names_the_file_and_the_fix(
        self, path: Path, spoil: Callable[[Path], None]
    ) -> None:
        close(path)
        spoil(path)
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(StartupError) as caught:
            open_database(path)
        assert str(path) in str(caught.value)
        assert "Restore it from a backup" in str(caught.value)
        assert (path.read_bytes() if path.is_file() else b"") == before

    def test_database_of_another_program_is_left_to_it(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE user (name TEXT)")
        with pytest.raises(StartupError, match=r"another program.*table user.*DATABASE_URL"):
            open_database(path)
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("user",)]
        connection.close()

    def test_start_that_was_killed_before_the_first_migration_is_made_up_for(
        self, path: Path
    ) -> None:
        close(path)
        with sqlite3.connect(path) as connection:
            tables = [name for (name,) in connection.execute(TABLES)]
            (history,) = [name for name in tables if "migration" in name]
            connection.execute(f"DELETE FROM {history}")
            for name in tables:
                if name != history:
                    connection.execute(f"DROP TABLE {name}")
        connection.close()
        close(path)

    def test_newer_schema_asks_for_an_upgrade(self, path: Path) -> None:
        close(path)
        with sqlite3.connect(path) as connection:
            tables = [name for (name,) in connection.execute(TABLES)]
            (history,) = [name for name in tables if "migration" in name]
            connection.execute(
                f"INSERT INTO {history} (name, applied) VALUES ('9999_later', '2030-01-01')"
            )
        connection.close()
        with pytest.raises(StartupError, match=r"newer version.*9999_later.*Upgrade"):
            open_database(path)


FIRST = "0001_initial"
SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
PERSON = "INSERT INTO user (email, username, password_hash, is_active, created_at)"

# Opens a database and kills itself before its nth statement.
KILLED = """
import os, signal, sys
from pathlib import Path
from anymind_lite import database

left = int(sys.argv[2])

class Counted(database.ServerDatabase):
    def _connect(self):
        connection = super()._connect()
        connection.set_trace_callback(count)
        return connection

def count(statement):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

database.ServerDatabase = Counted
database.open_database(Path(sys.argv[1])).close_all()
"""


def make_old(path: Path) -> None:
    """Make a database as the first version left it, with a row."""
    opened = ServerDatabase(path)
    Runner(opened, directory=str(MIGRATIONS_DIR)).up(FIRST)
    opened.execute_sql(f"{PERSON} VALUES ('ada@example.com', 'ada', '-', 1, '')")
    opened.close_all()


def schema_of(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(SCHEMA).fetchall()


def applied_to(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM schema_migration ORDER BY name").fetchall()
    return [name for (name,) in rows]


def emails_of(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [email for (email,) in connection.execute("SELECT email FROM user")]


def backups_of(path: Path) -> list[Path]:
    return sorted((path.parent / "backups").glob("*"))


MIGRATIONS = sorted(path.stem for path in MIGRATIONS_DIR.glob("0*.py"))


class TestUpgrade:
    def test_a_copy_from_before_is_kept(self, path: Path) -> None:
        make_old(path)
        before = schema_of(path)
        close(path)
        assert applied_to(path) == MIGRATIONS
        (kept,) = backups_of(path)
        assert re.fullmatch(rf"before-{MIGRATIONS[1]}-\d{{8}}T\d{{12}}Z\.sqlite3", kept.name)
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert (schema_of(kept), applied_to(kept)) == (before, [FIRST])
        assert emails_of(kept) == emails_of(path) == ["ada@example.com"]

    def test_the_copy_goes_to_the_folder_that_is_named(self, path: Path, tmp_path: Path) -> None:
        make_old(path)
        open_database(path, backups=tmp_path / "else" / "where").close_all()
        assert len(list((tmp_path / "else" / "where").iterdir())) == 1
        assert backups_of(path) == []

    def test_what_needs_no_upgrade_is_not_copied(self, path: Path) -> None:
        close(path)
        close(path)
        assert backups_of(path) == []

    def test_the_last_five_copies_stay_and_nothing_else_goes(self, path: Path) -> None:
        folder = path.parent / "backups"
        folder.mkdir()
        # Two from a future that the clock knew once.
        years = (2019, 2020, 2021, 2022, 2023, 2090, 2091)
        for year in years:
            (folder / f"before-0002_x-{year}0101T000000000000Z.sqlite3").touch()
        (folder / "before-I-forget.sqlite3").touch()
        for left_over in (".unfinished", ".unfinished-journal"):
            (folder / left_over).write_text("left by a start that was killed")
        make_old(path)
        close(path)
        newest, *names = [kept.name for kept in backups_of(path)]
        assert newest.startswith(f"before-{MIGRATIONS[1]}-2")
        assert [name[14:18] for name in names[:4]] == ["2022", "2023", "2090", "2091"]
        assert names[4:] == ["before-I-forget.sqlite3"]

    def test_without_room_for_the_copy_nothing_is_changed(self, path: Path) -> None:
        make_old(path)
        (path.parent / "backups").write_text("a file in the way")
        before = schema_of(path)
        with pytest.raises(StartupError, match=r"must be upgraded.*backups.*start again"):
            open_database(path)
        assert (schema_of(path), applied_to(path)) == (before, [FIRST])

    @pytest.mark.slow
    @pytest.mark.parametrize("start", [make_old, lambda path: None], ids=["old", "new"])
    def test_a_kill_at_any_statement_leaves_one_schema_or_the_next(
        self, path: Path, tmp_path: Path, start: Callable[[Path], None]
    ) -> None:
        whole = {}
        for number, name in enumerate(MIGRATIONS):
            reached = ServerDatabase(tmp_path / name)
            Runner(reached, directory=str(MIGRATIONS_DIR)).up(name)
            reached.close_all()
            whole[tuple(MIGRATIONS[: number + 1])] = schema_of(tmp_path / name)
        for statements in range(1000):
            folder = tmp_path / str(statements)
            folder.mkdir()
            start(folder / "x")
            arguments = [sys.executable, "-c", KILLED, str(folder / "x"), str(statements)]
            ended = subprocess.run(arguments, cwd=ROOT, timeout=DEADLINE_SECONDS, check=False)
            if (tables := schema_of(folder / "x")) and len(tables) > 2:
                assert tables == whole[tuple(applied_to(folder / "x"))]
            close(folder / "x")
            assert schema_of(folder / "x") == whole[tuple(MIGRATIONS)]
            assert emails_of(folder / "x") == (["ada@example.com"] if start is make_old else [])
            if ended.returncode == 0:
                break
            assert ended.returncode == -signal.SIGKILL
        assert statements > 15


class TestCopy:
    def test_a_missing_database_is_not_made(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(sqlite3.OperationalError):
            copy_database(path, tmp_path / "copy")
        assert os.listdir(tmp_path) == []

    def test_a_standing_file_is_not_overwritten(self, path: Path, tmp_path: Path) -> None:
        close(path)
        (tmp_path / "copy").write_text("mine")
        with pytest.raises(FileExistsError):
            copy_database(path, tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "mine"

    def test_a_writer_is_not_held_up_and_its_open_work_not_copied(
        self, rows: Rows, tmp_path: Path
    ) -> None:
        user = rows.user()
        with write_transaction():
            User.update(full_name="not yet").execute()
            copy_database(tmp_path / "anymind.sqlite3", tmp_path / "copy")
        with closing(open_to_read(tmp_path / "copy")) as copy:
            assert copy.execute("SELECT email, full_name FROM user").fetchall() == [
                (user.email, None)
            ]

    def test_a_reader_cannot_write(self, rows: Rows, tmp_path: Path) -> None:
        rows.user()
        with closing(open_to_read(tmp_path / "anymind.sqlite3")) as reader:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM user")
            with write_transaction():
                User.update(full_name="meanwhile").execute()

    def test_odd_characters_in_a_path_are_part_of_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "a?b#c%41 ü&mode=rwc"
        folder.mkdir()
        close(folder / "x?y.sqlite3")
        copy_database(folder / "x?y.sqlite3", folder / "copy?z")
        assert applied_to(folder / "copy?z") == MIGRATIONS


class TestWriteTransaction:
    def test_nothing_stays_of_a_block_that_raises(self, rows: Rows) -> None:
        user = rows.user()

        def write() -> None:
            with write_transaction():
                User.update(full_name="changed").where(User.id == user.id).execute()
                User.create(email="b", username="b", password_hash="", created_at="")
                raise ValueError("inside")

        with pytest.raises(ValueError, match="inside"):
            write()
        assert User.select().count() == 1
        assert User.get_by_id(user.id).full_name is None

    def test_a_block_may_stand_in_another(self, rows: Rows) -> None:
        user = rows.user()

        def write() -> None:
            with write_transaction():
                with write_transaction():
                    User.update(full_name="inner").where(User.id == user.id).execute()
                raise ValueError("outside")

        with pytest.raises(ValueError, match="outside"):
            write()
        assert User.get_by_id(user.id).full_name is None

    def test_threads_that_read_then_write_never_meet_a_lock_error(self, rows: Rows) -> None:
        agent = rows.agent(current_version_id=0)
        start = threading.Barrier(2)

        def count_up() -> None:
            start.wait(DEADLINE_SECONDS)
            for _ in range(200):
                with write_transaction():
                    before = Agent.get_by_id(agent.id).current_version_id
                    Agent.update(current_version_id=before + 1).execute()

        with ThreadPoolExecutor(2) as threads:
            for future in [threads.submit(count_up) for _ in range(2)]:
                future.result(DEADLINE_SECONDS)
        assert Agent.get_by_id(agent.id).current_version_id == 400

    def test_other_programs_are_kept_from_writing_from_the_first_statement(
        self, rows: Rows, tmp_path: Path
    ) -> None:
        user = rows.user()
        other = sqlite3.connect(tmp_path / "anymind.sqlite3", timeout=0, isolation_level=None)
        with write_transaction():
            User.get_by_id(user.id)  # only read, as yet
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            User.update(full_name="mine").execute()
        other.execute("BEGIN IMMEDIATE")
        other.close()

    def test_threads_stand_in_line_and_do_not_poll_the_file(
        self, database: ServerDatabase, rows: Rows
    ) -> None:
        user = rows.user()
        is_connected = threading.Event()

        def write() -> None:
            database.execute_sql("PRAGMA busy_timeout = 0")  # who polls gives up at once
            is_connected.set()
            with write_transaction():
                User.update(full_name="second").execute()

        with ThreadPoolExecutor(1) as thread:
            with write_transaction():
                User.update(full_name="first").execute()
                second = thread.submit(write)
                assert is_connected.wait(DEADLINE_SECONDS)
                # Never ends while the first stands: with the lock it waits, without it fails.
                with pytest.raises(TimeoutError):
                    second.result(0.2)
            second.result(DEADLINE_SECONDS)
        assert User.get_by_id(user.id).full_name == "second"

    def test_who_waits_in_line_has_no_more_patience_with_another_program_than_the_first(
        self, database: ServerDatabase, tmp_path: Path
    ) -> None:
        database.timeout = 0.5

        def write() -> None:
            with write_transaction():
                pass

        with (
            closing(sqlite3.connect(tmp_path / "anymind.sqlite3", isolation_level=None)) as other,
            ThreadPoolExecutor(10) as threads,
        ):
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            errors = [threads.submit(write).exception for _ in range(10)]
            assert all(is_locked(error(DEADLINE_SECONDS) or KeyError()) for error in errors)
            assert time.monotonic() - started < 2.5  # one after the other: 5 s

    def test_a_turn_that_does_not_come_is_an_error_and_leaves_the_next_one_free(
        self, rows: Rows, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("anymind_lite.database._TURN_TIMEOUT_SECONDS", 0.05)
        has_begun, may_end = threading.Event(), threading.Event()

        def write_for_long() -> None:
            with write_transaction():
                has_begun.set()
                may_end.wait(DEADLINE_SECONDS)

        with ThreadPoolExecutor(1) as threads:
            writer = threads.submit(write_for_long)
            assert has_begun.wait(DEADLINE_SECONDS)
            with pytest.raises(OperationalError, match="locked"), write_transaction():
                pass
            may_end.set()
            writer.result()
        assert rows.user().id  # the next one writes

    def test_a_reader_sees_the_old_row_until_the_end(self, rows: Rows) -> None:
        user = rows.user()

        def read() -> object:
            return User.get_by_id(user.id).full_name

        with ThreadPoolExecutor(1) as thread:
            with write_transaction():
                User.update(full_name="new").execute()
                assert thread.submit(read).result(DEADLINE_SECONDS) is None
            assert thread.submit(read).result(DEADLINE_SECONDS) == "new"


@pytest.fixture
def full(database: ServerDatabase, rows: Rows) -> Iterator[ServerDatabase]:
    """A database that cannot grow by more than a few pages."""
    rows.user()
    pages = database.execute_sql("PRAGMA page_count").fetchone()[0]
    let_grow(database, pages + 2)
    yield database
    let_grow(database, 1_000_000)


def let_grow(database: ServerDatabase, pages: int) -> None:
    """Bound the file for the connection that writes."""
    with write_transaction():
        database.execute_sql(f"PRAGMA max_page_count = {pages}").fetchall()


def write_much() -> None:
    with write_transaction():
        for number in range(100):
            User.create(
                email=f"e{number}", username=f"u{number}", password_hash="x" * 5000, created_at=""
            )


class TestDiskFull:
    def test_is_seen_through_what_peewee_makes_of_it(self, full: ServerDatabase) -> None:
        with pytest.raises(DatabaseError) as caught:
            write_much()
        assert is_disk_full(caught.value)
        assert User.select().count() == 1

    def test_writing_goes_on_when_there_is_room_again(self, full: ServerDatabase) -> None:
        with pytest.raises(DatabaseError):
            write_much()
        let_grow(full, 1_000_000)
        write_much()
        assert User.select().count() == 101

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (OSError(errno.ENOSPC, "x"), True),
            (OSError(errno.EDQUOT, "x"), True),
            (OSError(errno.EIO, "x"), False),
            (sqlite3.OperationalError("database or disk is full"), True),
            (sqlite3.OperationalError("database is locked"), False),
            (IntegrityError("UNIQUE constraint failed"), False),
            (ValueError(), False),
        ],
    )
    def test_tells_a_full_disk_from_other_errors_at_any_depth(
        self, error: BaseException, expected: bool
    ) -> None:
        as_cause, as_context, as_both = ValueError("a"), ValueError("b"), ValueError("c")
        as_cause.__cause__ = error
        as_context.__context__ = as_cause
        as_both.__cause__, as_both.__context__ = ValueError("other"), as_context
        for one in (error, as_cause, as_context, as_both):
            assert is_disk_full(one) is expected

    def test_errors_that_name_each_other_end_the_search(self) -> None:
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        assert not is_disk_full(one)


class TestDurability:
    """Whether a commit waits for the disk is a property of the transaction, of no other."""

    @staticmethod
    def is_flushed(database: ServerDatabase) -> bool:
        return bool(database.execute_sql("PRAGMA synchronous").fetchone()[0] == 2)

    def test_only_what_says_so_is_not_flushed(self, database: ServerDatabase) -> None:
        seen = []
        for is_durable in (True, False, True, False, False, True):
            with write_transaction(is_durable=is_durable):
                seen.append(self.is_flushed(database))
            assert self.is_flushed(database)
        assert seen == [True, False, True, False, False, True]

    def test_inside_another_it_is_as_durable_as_that(self, database: ServerDatabase) -> None:
        with write_transaction(), write_transaction(is_durable=False):
            assert self.is_flushed(database)
        assert self.is_flushed(database)

    def test_failure_leaves_the_next_one_durable(self, database: ServerDatabase) -> None:
        with pytest.raises(RuntimeError), write_transaction(is_durable=False):
            raise RuntimeError
        with write_transaction():
            assert self.is_flushed(database)

    def test_lock_of_another_program_leaves_the_next_one_durable(
        self, database: ServerDatabase, tmp_path: Path
    ) -> None:
        database.timeout = 0.01
        with closing(sqlite3.connect(tmp_path / "anymind.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError), write_transaction(is_durable=False):
                pass
        with write_transaction():
            assert self.is_flushed(database)

    def test_what_was_not_flushed_survives_the_death_of_the_process(self, tmp_path: Path) -> None:
        path = tmp_path / "killed.sqlite3"
        killed = subprocess.run([sys.executable, "-c", UNFLUSHED, path], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
        with closing(open_to_read(path)) as connection:
            assert connection.execute("SELECT email FROM user").fetchall() == [("a@b.c",)]


# Commits without a flush, and kills itself at once.
UNFLUSHED = """
import os, signal, sys
from pathlib import Path
from anymind_lite.clock import utc_now
from anymind_lite.database import open_database, write_transaction
from anymind_lite.models import User

open_database(Path(sys.argv[1]))
with write_transaction(is_durable=False):
    User.create(email="a@b.c", username="a", password_hash="x", created_at=utc_now())
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestPreparedSelect:
    def test_finds_what_the_query_finds(self, rows: Rows) -> None:
        agents = [rows.agent(name=f"agent {number}") for number in range(3)]
        prepared = PreparedSelect(Agent.select().where(Agent.id == 0, Agent.user == 0))
        for agent in agents:
            query = Agent.select().where(Agent.id == agent.id, Agent.user == agent.user_id)
            found = prepared.find(agent.id, agent.user_id)
            assert found.__data__ == query.get().__data__
            assert isinstance(found, Agent)
        assert prepared.find(agents[0].id, agents[1].user_id) is None
        assert prepared.find(0, 0) is None

    def test_gives_what_is_selected_under_another_name(self, rows: Rows) -> None:
        agent = rows.agent()
        query = User.select(User.id, Agent.id.alias("agent_id"), Agent.created_at.alias("made_at"))
        found = PreparedSelect(query.join(Agent).where(Agent.id == 0)).find(agent.id)
        assert (found.id, found.agent_id) == (agent.user_id, agent.id)
        assert found.made_at == Agent.get_by_id(agent.id).created_at
        assert found.email is None

    def test_values_are_never_part_of_the_sql(self, rows: Rows) -> None:
        rows.user()
        prepared = PreparedSelect(User.select().where(User.email == ""))
        assert prepared.find("' OR 1=1 --") is None


class TestPreparedWrite:
    """What is rendered once writes what Peewee would, whatever the order of the columns."""

    NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

    def test_writes_what_the_query_would(self, rows: Rows) -> None:
        agent = rows.agent()
        fields = (Agent.user, Agent.name, Agent.status, Agent.created_at, Agent.updated_at)
        insert = PreparedWrite(Agent.insert(blanks(*fields)))
        values = {"user": agent.user_id, "name": "b", "status": AgentStatus.READY}
        times = {"created_at": self.NOW, "updated_at": self.NOW}
        with write_transaction():
            made = Agent.get_by_id(insert.run(**times, **values).lastrowid)
            expected = Agent.create(**values, **times)
        expected = Agent.get_by_id(expected.id)
        assert made.__data__ | {"id": 0} == expected.__data__ | {"id": 0}

    def test_update_counts_and_changes_the_rows_that_it_meets(self, rows: Rows) -> None:
        agents = [rows.agent(), rows.agent()]
        rename = PreparedWrite(
            Agent.update(
                {Agent.name: blank(Agent.name), Agent.updated_at: blank(Agent.updated_at)}
            ).where(Agent.name == blank(Agent.name, "old"), Agent.id == blank(Agent.id))
        )
        old = agents[0].name
        with write_transaction():
            met = rename.run(id=agents[0].id, old=old, name="new", updated_at=self.NOW)
            missed = rename.run(id=agents[1].id, old="other", name="newer", updated_at=self.NOW)
        assert (met.rowcount, missed.rowcount) == (1, 0)
        found = [Agent.get_by_id(agent.id) for agent in agents]
        assert [each.name for each in found] == ["new", agents[1].name]
        assert found[0].updated_at == self.NOW

    def test_values_are_never_part_of_the_sql(self, rows: Rows) -> None:
        agent = rows.agent()
        rename = PreparedWrite(Agent.update({Agent.name: blank(Agent.name)}))
        for name in ("' OR 1=1 --", "?", "it's"):
            with write_transaction():
                rename.run(name=name)
            assert Agent.get_by_id(agent.id).name == name

    def test_value_that_is_missing_is_an_error(self, rows: Rows) -> None:
        rename = PreparedWrite(Agent.update({Agent.name: blank(Agent.name)}))
        with pytest.raises(KeyError, match="name"):
            rename.run()


def spoil_page_of(path: Path, mark: bytes) -> None:
    """Overwrite the head of the first page of rows (SQLite file format, 1.6) that holds a mark."""
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        page = content[start : start + 4096]
        if page[0] == 0x0D and mark in page:
            content[start : start + 8] = b"\xaa" * 8
            path.write_bytes(content)
            return
    raise AssertionError("there is no such page")


class TestLargeDatabase:
    """Too large to be checked whole before serving: what grows is checked while serving."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "large.sqlite3"
        opened = open_database(path)
        version = Rows().version(Rows().agent(name="agent with a mark"), status="ready")
        for _ in range(20):
            Rows().execution(version, status="completed", input_data="execution" * 300)
        opened.close_all()
        monkeypatch.setattr(database_module, "_WHOLE_CHECK_BYTES", 0)
        return path

    def test_sound_one_is_found_sound(self, path: Path) -> None:
        opened = open_database(path)
        assert not opened.is_checked_whole
        end = search_damage(opened)
        wait_for(lambda: opened.is_checked_whole, "the check")
        end()
        assert opened.damage == ""
        Rows().user()
        opened.close_all()

    def test_damage_beside_the_executions_refuses_the_start(self, path: Path) -> None:
        spoil_page_of(path, b"agent with a mark")
        with pytest.raises(StartupError, match="Restore it from a backup"):
            open_database(path)

    def test_damage_among_the_executions_ends_all_writing_and_refuses_the_next_start(
        self, path: Path
    ) -> None:
        spoil_page_of(path, b"execution" * 50)
        opened = open_database(path)
        end = search_damage(opened)
        wait_for(lambda: opened.damage, "the damage to be found")
        end()
        assert User.select().count() == 1  # reading goes on
        with pytest.raises(DatabaseDamaged, match="restored from a backup"):
            Rows().user()
        opened.close_all()
        for _ in range(2):
            with pytest.raises(StartupError, match=r"damaged|cannot be read"):
                open_database(path)

    def test_restored_one_starts_again(self, path: Path) -> None:
        backup = path.read_bytes()
        spoil_page_of(path, b"execution" * 50)
        opened = open_database(path)
        end = search_damage(opened)
        wait_for(lambda: opened.damage, "the damage to be found")
        end()
        opened.close_all()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(backup)
        for is_checked_whole in (True, False):  # all of it once, then as usual
            opened = open_database(path)
            assert opened.is_checked_whole == is_checked_whole
            opened.close_all()

    def test_check_ends_when_the_server_does(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = open_database(path)
        seen: list[str] = []

        def search_for_ever(_: ServerDatabase, connection: sqlite3.Connection) -> None:
            endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n"
            try:
                connection.execute(f"SELECT count(*) FROM ({endless})").fetchone()
            except sqlite3.OperationalError as exc:
                seen.append(str(exc))
            connection.close()

        monkeypatch.setattr(database_module, "_search", search_for_ever)
        search_damage(opened)()
        assert seen == ["interrupted"]
        opened.close_all()
