"""kill -9 at every statement of every migration: the next start ends with the same schema."""

import os
import signal
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from peewee import OperationalError
from playhouse.migrate import SchemaMigrator

from anymind_lite.database import MIGRATIONS_DIR, ServerDatabase, open_database
from tests.faults.driver import Watch
from tests.faults.points import Point

STEPS = sorted(path.stem for path in MIGRATIONS_DIR.glob("[0-9]*.py"))
_EXECUTE = "anymind_lite.database.ServerDatabase.execute_sql"
_MIGRATE = "anymind_lite.database._migrate"
USER = ("person@example.com", "person", "-", 1, "2026-01-01T00:00:00Z")


def make_at(path: Path, step: str) -> None:
    """Make the database as it was after a step, with a row in it."""
    from playhouse.migrations import Runner

    old = ServerDatabase(path)
    Runner(old, directory=str(MIGRATIONS_DIR)).up(step)
    old.execute_sql(
        "INSERT INTO user (email, username, password_hash, is_active, created_at)"
        " VALUES (?, ?, ?, ?, ?)",
        USER,
    )
    old.close_all()


def open_and_die(path: Path, point: Point) -> bool:
    """Open the database in a child that dies at a point; tell whether it came to it."""
    armed = path.with_name("armed")
    armed.touch()
    pid = os.fork()
    if pid == 0:
        try:
            Watch(point, signal.SIGKILL, armed).install()
            open_database(path)
        finally:
            os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def contents(path: Path) -> tuple[Any, Any, Any]:
    """Return schema, steps and users of a database that was opened once more."""
    open_database(path).close_all()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return (
            db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall(),
            db.execute("SELECT name FROM schema_migration ORDER BY name").fetchall(),
            db.execute(
                "SELECT email, username, password_hash, is_active, created_at FROM user"
            ).fetchall(),
        )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["", *STEPS[:-1]], ids=lambda step: f"from {step or 'nothing'}")
def test_a_migration_that_is_killed_anywhere_is_done_by_the_next_start(
    tmp_path: Path, step: str, when: Any
) -> None:
    def prepare(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        if step:
            make_at(path / "db.sqlite3", step)
        return path / "db.sqlite3"

    expected = contents(prepare("whole"))
    assert expected[1] == [(name,) for name in STEPS]
    assert expected[2] == ([USER] if step else [])
    deaths = 0
    while True:
        path = prepare(f"killed {deaths}")
        if not open_and_die(path, Point(when, _EXECUTE, _MIGRATE, deaths + 1)):
            break
        assert contents(path) == expected, f"killed {when} statement {deaths + 1}"
        deaths += 1
    assert deaths > 5


def test_migrations_outside_transactions_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SchemaMigrator, "migration_context", lambda *_: nullcontext())
    with pytest.raises(OperationalError, match=r"already exists|duplicate column"):
        test_a_migration_that_is_killed_anywhere_is_done_by_the_next_start(
            tmp_path, STEPS[0], "after"
        )
