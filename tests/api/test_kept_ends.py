"""Ends that the database does not take are kept, and written when it does: none is lost."""

import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from peewee import OperationalError
from werkzeug.test import TestResponse

from anymind_lite.backend import Backend
from anymind_lite.database import write_transaction
from anymind_lite.errors import DatabaseDamaged
from anymind_lite.services import executions
from anymind_lite.services import executor as executor_module
from anymind_lite.services.executor import End
from anymind_lite.services.recovery import close_orphans
from tests.api.conftest import RUNTIME, Person, body_of, deploy, detail
from tests.api.test_async import begin, cancel, execute, get, no_free_slot
from tests.waiting import wait_for

LARGE = "def handle(payload):\n    print('hello')\n    return {'text': 'x' * 900_000}\n"
NO_LIMIT = 2**30  # pages, more than SQLite lets a file have


class Outage:
    """What keeps the database from being written, from the end of the next run on."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._run = backend.executor.run

    def begin(self) -> None:
        """Let nothing be written any more."""
        raise NotImplementedError

    def end(self) -> None:
        """Let all be written again."""
        raise NotImplementedError

    def run(self, *arguments: Any) -> Any:
        """Run an agent as the executor does, and begin before its end can be written."""
        outcome = self._run(*arguments)
        self.begin()
        return outcome


class Locked(Outage):
    """Another program holds the lock of writers."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._other = sqlite3.connect(
            backend.settings.database_path, isolation_level=None, check_same_thread=False
        )

    def begin(self) -> None:
        self._other.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        if self._other.in_transaction:
            self._other.rollback()


class Full(Outage):
    """The file may not grow, as on a full disk."""

    def begin(self) -> None:
        self._let_grow(1)  # SQLite takes no less than what the file has

    def end(self) -> None:
        self._let_grow(NO_LIMIT)

    def _let_grow(self, pages: int) -> None:
        with write_transaction():
            self.backend._database.execute_sql(f"PRAGMA max_page_count = {pages}").fetchall()


class Damaged(Outage):
    """Damage was found while serving."""

    def begin(self) -> None:
        self.backend._database.damage = "a page is not what it should be"

    def end(self) -> None:
        self.backend._database.damage = ""


@pytest.fixture
def outage(
    request: pytest.FixtureRequest, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outage]:
    """Let an outage, a lock unless another is asked for, begin when a run has ended."""
    database = backend._database
    seconds = database.timeout
    database.timeout = 0.05  # for this thread, and for those that open a connection from here on
    outage: Outage = getattr(request, "param", Locked)(backend)
    with ThreadPoolExecutor(4) as threads, monkeypatch.context() as patch:
        patch.setattr(backend.executor, "_threads", threads)
        patch.setattr(backend.executor, "run", outage.run)
        yield outage
        outage.end()
        executions.write_kept_ends(backend.executor)
    database.timeout = seconds
    if isinstance(outage, Locked):
        outage._other.close()


def unfinished(client: FlaskClient, person: Person, agent_id: int) -> list[dict[str, Any]]:
    query = f"agent_id={agent_id}&status=pending"
    rows: list[dict[str, Any]] = body_of(
        client.get(f"{RUNTIME}/executions?{query}", headers=person.by_key)
    )
    return rows


def repair(backend: Backend) -> None:
    """Do what the server does every few seconds for ends, and leave the builds of others alone."""
    executions.write_kept_ends(backend.executor)
    # In an outage the rows that other tests have left cannot be closed.
    with contextlib.suppress(OperationalError, DatabaseDamaged):
        close_orphans(backend.executor.held)


def refused(client: FlaskClient, person: Person, agent_id: int, status: int = 503) -> int:
    """Execute an agent whose end is not written; return the execution that the answer names."""
    response = execute(client, person, agent_id)
    execution_id = int(response.headers["Location"].rsplit("/", 1)[1])
    text = f"Execution {execution_id} has ended, and tells how once that can be written down"
    assert detail(response, status).endswith(f". {text}")
    return execution_id


@pytest.mark.parametrize(
    ("outage", "status"), [(Locked, 503), (Full, 507), (Damaged, 500)], indirect=["outage"]
)
def test_end_is_written_as_soon_as_the_database_takes_it(
    client: FlaskClient, alice: Person, backend: Backend, outage: Outage, status: int
) -> None:
    execution_id = refused(client, alice, deploy(client, alice, LARGE), status)
    for _ in range(2):
        repair(backend)
        row = get(client, alice, execution_id)
        assert (row["status"], row["finished_at"]) == ("running", None)
        assert execution_id in backend.executor.held
    assert backend.executor.slots.busy == 0
    outage.end()
    repair(backend)
    row = get(client, alice, execution_id)
    assert (row["status"], row["output_data"]) == ("completed", {"text": "x" * 900_000})
    assert (row["logs"], row["error_code"]) == ("hello\n", None)
    assert row["created_at"] <= row["started_at"] <= row["finished_at"]
    assert row["max_rss_kb"] > 1000
    assert execution_id not in backend.executor.held
    assert backend.executor.kept_ends() == []


def test_refusal_asks_nobody_to_send_again_what_was_executed(
    client: FlaskClient, alice: Person, echo: int, outage: Outage
) -> None:
    response = execute(client, alice, echo)
    text = "Another program holds the server's database. Execution "
    assert detail(response, 503).startswith(text)
    assert "Retry-After" not in response.headers


def test_who_polls_hears_of_the_end_when_it_is_written_and_not_before(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For as long as that takes it is one that runs, and it holds no slot."""
    execution_id = begin(client, alice, echo)
    wait_for(backend.executor.kept_ends, "the end to be kept")
    wait_for(lambda: not backend.executor.slots.busy, "the slot to be free")
    assert get(client, alice, execution_id, wait="1")["status"] == "running"
    with ThreadPoolExecutor(1) as threads:
        other = client.application.test_client()
        poll = threads.submit(get, other, alice, execution_id, "60")
        wait_for(lambda: execution_id in backend.executor._watchers, "the poll to begin")
        outage.end()
        repair(backend)
        assert poll.result(timeout=20)["status"] == "completed"
    assert "execution_crashed" not in caplog.text


def test_cancel_wins_and_the_late_end_adds_its_traces(
    client: FlaskClient, alice: Person, backend: Backend, echo: int, outage: Outage
) -> None:
    execution_id = refused(client, alice, echo)
    outage.end()
    row = cancel(client, alice, execution_id)
    assert (row["status"], row["tier"], row["logs"]) == ("cancelled", None, None)
    repair(backend)
    late = get(client, alice, execution_id)
    assert (late["status"], late["output_data"], late["logs"]) == ("cancelled", None, "hello\n")
    assert late["tier"] is not None
    assert late["finished_at"] == row["finished_at"]
    assert execution_id not in backend.executor.held


def test_end_of_a_deleted_agent_is_dropped(
    client: FlaskClient, alice: Person, backend: Backend, echo: int, outage: Outage
) -> None:
    execution_id = refused(client, alice, echo)
    outage.end()
    assert client.delete(f"/api/v1/agents/{echo}", headers=alice.by_key).status_code == 204
    repair(backend)
    assert backend.executor.kept_ends() == []
    assert execution_id not in backend.executor.held
    path = f"{RUNTIME}/executions/{execution_id}"
    detail(client.get(path, headers=alice.by_key), 404)


def test_who_asks_again_with_the_key_gets_the_same_execution(
    client: FlaskClient, alice: Person, backend: Backend, echo: int, outage: Outage
) -> None:
    def ask() -> TestResponse:
        return execute(client, alice, echo, **{"Idempotency-Key": "k"})

    place = ask().headers["Location"]
    again = ask()
    assert (again.status_code, again.headers["Location"]) == (409, place)
    outage.end()
    repair(backend)
    replay = ask()
    row = body_of(replay, 201)
    assert (row["status"], row["output_data"]) == ("completed", {"n": 1})
    assert f"{RUNTIME}/executions/{row['id']}" == place
    assert replay.headers["Idempotent-Replayed"] == "true"


def test_what_never_began_in_an_outage_leaves_its_key_free(
    client: FlaskClient, alice: Person, backend: Backend, echo: int, outage: Outage
) -> None:
    """Its turn came and could not be written: the same request may run it yet."""

    def ask() -> TestResponse:
        other = client.application.test_client()
        return execute(other, alice, echo, **{"Idempotency-Key": "never-began"})

    with ThreadPoolExecutor(1) as threads:
        with no_free_slot(backend):
            asked = threads.submit(ask)
            row = wait_for(lambda: unfinished(client, alice, echo), "it to be recorded")[0]
            outage.begin()
        refusal = asked.result(timeout=20)
    detail(refusal, 503)
    assert "Location" not in refusal.headers
    outage.end()
    repair(backend)
    assert get(client, alice, row["id"])["status"] == "failed"
    backend.executor.run = outage._run  # type: ignore[method-assign]
    assert body_of(ask(), 201)["status"] == "completed"


def test_no_more_is_begun_where_ends_that_wait_take_much_memory(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = deploy(client, alice, LARGE)
    monkeypatch.setattr(executor_module, "KEPT_ENDS_BYTES", 1_000_000)
    for agent_id in (echo, large, large):  # the last is taken while 900 KB wait
        outage.end()
        refused(client, alice, agent_id)
    outage.end()
    response = execute(client, alice, echo)
    text = "The server has yet to write down how earlier executions ended"
    assert detail(response, 503) == text
    assert response.headers["Retry-After"] == "5"
    repair(backend)
    refused(client, alice, echo)


def test_while_the_lock_stands_one_end_is_tried_and_not_each(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = []
    for _ in range(3):
        outage.end()
        ids.append(refused(client, alice, echo))
    tries: list[int] = []
    finish = executions.finish_execution

    def counted(execution_id: int, end: End) -> bool:
        tries.append(execution_id)
        return finish(execution_id, end)

    monkeypatch.setattr(executions, "finish_execution", counted)
    repair(backend)
    assert tries == ids[:1]
    outage.end()
    repair(backend)
    assert tries == [ids[0], *ids]
