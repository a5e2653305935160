"""No list, no look-up and no background work reads a whole table: each is a search in an index.

SQLite plans without looking at the rows, so the plan of an empty database is that of a million.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from anymind_lite.clock import SteadyClock
from anymind_lite.database import ServerDatabase
from anymind_lite.models import Agent, AgentVersion, Execution, User
from anymind_lite.services import retention
from anymind_lite.services.agents import delete_agent, derive_status, list_agents
from anymind_lite.services.api_keys import KeyUsage, list_api_keys
from anymind_lite.services.builds import refresh_agent
from anymind_lite.services.executions import ExecutionFilter, get_execution, iter_executions
from anymind_lite.services.idempotency import forget_expired
from anymind_lite.services.logs import list_agent_logs
from anymind_lite.services.pages import Page
from anymind_lite.services.recovery import (
    close_orphans,
    hint_queued,
    recover_at_start,
    requeue_orphans,
)
from anymind_lite.services.versions import list_versions
from tests.unit.conftest import Rows

# An index of the few rows that are unfinished may be read as a whole.
SMALL_INDEXES = ("execution_unfinished", "version_unfinished", "agent_building")


class World:
    """One user with an agent, a ready version and a finished execution."""

    def __init__(self, rows: Rows) -> None:
        self.user: User = rows.user()
        self.agent: Agent = rows.agent(user=self.user)
        self.version: AgentVersion = rows.version(self.agent, status="ready")
        self.execution: Execution = rows.execution(self.version, status="completed")


@pytest.fixture
def world(rows: Rows) -> World:
    return World(rows)


class EmptyQueue:
    def is_empty(self) -> bool:
        return True

    def enqueue(self, version_id: int) -> None:
        raise AssertionError(version_id)


class NoFiles:
    def remove_agent(self, agent_id: int) -> None:
        pass


@contextmanager
def recorded(database: ServerDatabase) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that are carried out, with their values."""
    statements: list[tuple[str, Any]] = []
    carry_out = database.execute_sql

    def record(sql: str, params: Any = None) -> Any:
        statements.append((sql, params or ()))
        return carry_out(sql, params)

    database.execute_sql = record
    try:
        yield statements
    finally:
        database.execute_sql = carry_out


def plan(database: ServerDatabase, sql: str, params: Any) -> list[str]:
    rows = database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
    return [row[3] for row in rows]


def is_bounded(step: str) -> bool:
    """Whether a step of a plan costs the same however many rows there are."""
    if "TEMP B-TREE" in step:
        return False
    return not step.startswith("SCAN") or any(f"INDEX {name}" in step for name in SMALL_INDEXES)


PAGE = Page(0, 20)
FILTERS = ("agent_id", "agent_version_id", "status", "before_id")


def list_executions(wanted: tuple[str, ...], world: World) -> object:
    row = world.execution
    values = {
        "agent_id": row.agent_id,
        "agent_version_id": row.agent_version_id,
        "status": row.status,
        "before_id": row.id,
    }
    chosen: dict[str, Any] = {name: values[name] for name in wanted}
    return list(iter_executions(world.user, PAGE, ExecutionFilter(**chosen)))


STATEMENTS: dict[str, Callable[[World], object]] = {
    **{
        f"executions {' and '.join(wanted) or 'of the user'}": partial(list_executions, wanted)
        for count in range(len(FILTERS) + 1)
        for wanted in combinations(FILTERS, count)
    },
    "execution": lambda w: get_execution(w.user, w.execution.id),
    "agent logs": lambda w: list_agent_logs(w.user, w.agent.id, PAGE),
    "agents": lambda w: list_agents(w.user, PAGE),
    "versions": lambda w: list_versions(w.user, w.agent.id, PAGE),
    "api keys": lambda w: list_api_keys(w.user, key_usage=KeyUsage()),
    "status of an agent": lambda w: derive_status(w.agent.id),
    "refreshing an agent": lambda w: refresh_agent(w.agent.id),
    "deleting an agent": lambda w: delete_agent(
        w.user, w.agent.id, kill_executions=print, store=NoFiles()
    ),
    "recovery": lambda _: recover_at_start(),
    "repair of builds": lambda _: requeue_orphans(()),
    "repair of executions": lambda _: close_orphans(()),
    "hints": lambda _: hint_queued(EmptyQueue()),  # type: ignore[arg-type]
    "idempotency keys": lambda _: forget_expired(SteadyClock(0)),
    "retention": lambda _: retention.Retention(retention.Keep(days=1, count=1)).sweep(),
}


def unbounded(database: ServerDatabase, world: World, name: str) -> list[tuple[str, str]]:
    """Return the steps that grow with the rows, of all that an operation asks the database."""
    with recorded(database) as statements:
        STATEMENTS[name](world)
    planned = [one for one in statements if re.match("(SELECT|UPDATE|DELETE)", one[0])]
    assert planned
    steps = {(sql, step) for sql, params in planned for step in plan(database, sql, params)}
    return [(sql, step) for sql, step in steps if not is_bounded(step)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_nothing_reads_or_sorts_a_whole_table(
    database: ServerDatabase, world: World, name: str
) -> None:
    assert unbounded(database, world, name) == []


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("api_key_user", "api keys"),
        ("agent_user", "agents"),
        ("agent_version_updated", "agent logs"),
        ("version_unfinished", "hints"),
        ("execution_user", "executions of the user"),
        ("execution_unfinished", "recovery"),
        ("execution_agent", "deleting an agent"),
        ("idempotency_key_created", "idempotency keys"),
    ],
)
def test_an_index_that_is_gone_is_missed(
    database: ServerDatabase, world: World, index: str, name: str
) -> None:
    database.execute_sql(f"DROP INDEX {index}")
    assert unbounded(database, world, name) != []


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        (retention.NEXT_AGENT, (0,)),
        (retention.NTH_NEWEST, (1, 99)),
        (retention.FIRST_YOUNG, (1, "2026")),
        (retention.FINISHED_BELOW, (1, 0, 9, 200)),
        (retention.ALL_FINISHED_BELOW, (1, 0, 9, 200)),
        (retention.DELETE_FINISHED, (1,)),
    ],
)
def test_retention_searches(database: ServerDatabase, sql: str, values: tuple[object, ...]) -> None:
    steps = plan(database, sql, values)
    assert steps
    assert all(is_bounded(step) for step in steps), steps


def test_age_is_read_from_the_index_alone(database: ServerDatabase) -> None:
    """The instants stand behind the payload: reading them from the rows reads all of it."""
    (step,) = plan(database, retention.FIRST_YOUNG, (1, "2026"))
    assert "COVERING INDEX execution_agent_updated (agent_id=? AND updated_at>?)" in step


def test_a_scan_would_be_found(database: ServerDatabase) -> None:
    for sql in (
        "SELECT id FROM execution WHERE status = 'failed'",
        "SELECT id FROM execution WHERE user_id = 1 ORDER BY updated_at",
    ):
        assert not all(is_bounded(step) for step in plan(database, sql, ()))
