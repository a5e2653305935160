"""An opened database, and rows in it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.clock import utc_now
from anymind_lite.database import ServerDatabase, open_database, write_transaction
from anymind_lite.models import Agent, AgentVersion, Execution, User

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a database without rows: all migrations take longer than most tests."""
    path = tmp_path_factory.mktemp("new-database") / "anymind.sqlite3"
    open_database(path).close_all()
    return path.read_bytes()


@pytest.fixture
def database(tmp_path: Path, new_database: bytes) -> Iterator[ServerDatabase]:
    (tmp_path / "anymind.sqlite3").write_bytes(new_database)
    opened = open_database(tmp_path / "anymind.sqlite3")
    yield opened
    opened.close_all()


class Rows:
    """Puts rows into the open database, as if they had come about."""

    def user(self) -> User:
        number = next(_numbers)
        with write_transaction():
            return User.create(  # type: ignore[no-any-return]
                email=f"user{number}@example.com",
                username=f"user{number}",
                password_hash="-",
                created_at=utc_now(),
            )

    def agent(self, **columns: Any) -> Agent:
        now = utc_now()
        values = {"name": "agent", "created_at": now, "updated_at": now, **columns}
        values.setdefault("user", self.user())
        with write_transaction():
            return Agent.create(**values)  # type: ignore[no-any-return]

    def version(self, agent: Agent, **columns: Any) -> AgentVersion:
        now, number = utc_now(), next(_numbers)
        values = {
            "agent": agent,
            "number": number,
            "tarball_path": f"{number}.tar.gz",
            "tarball_sha256": "0" * 64,
            "tarball_bytes": 1,
            "created_at": now,
            "updated_at": now,
            **columns,
        }
        with write_transaction():
            return AgentVersion.create(**values)  # type: ignore[no-any-return]

    def execution(self, version: AgentVersion, **columns: Any) -> Execution:
        now = utc_now()
        values = {
            "agent": version.agent_id,
            "agent_version": version,
            "user": version.agent.user_id,
            "input_data": "{}",
            "created_at": now,
            "updated_at": now,
            **columns,
        }
        with write_transaction():
            return Execution.create(**values)  # type: ignore[no-any-return]


@pytest.fixture
def rows(database: ServerDatabase) -> Rows:
    return Rows()
