"""Executions that are not waited for: the Prefer header, long polls, cancel, the row's times."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from anymind_lite.backend import Backend
from anymind_lite.database import write_transaction
from anymind_lite.errors import Overloaded
from anymind_lite.models import AgentVersion, Execution, User
from anymind_lite.routes._prefer import read_preference
from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.services import executions
from anymind_lite.services import executor as executor_module
from anymind_lite.services.executor import LONG_POLLS, Executor, Place
from anymind_lite.services.slots import SlotPool
from tests.api.conftest import (
    RUNTIME,
    Person,
    add_execution,
    add_version,
    body_of,
    deploy,
    detail,
    make_agent,
)
from tests.waiting import wait_for

ASYNC = {"Prefer": "respond-async"}


def execute(client: FlaskClient, person: Person, agent_id: int, **headers: str) -> TestResponse:
    path = f"{RUNTIME}/{agent_id}/execute"
    return client.post(path, json={"payload": {"n": 1}}, headers={**person.by_key, **headers})


def begin(client: FlaskClient, person: Person, agent_id: int) -> int:
    return int(body_of(execute(client, person, agent_id, **ASYNC), 202)["id"])


def get(client: FlaskClient, person: Person, execution_id: int, wait: str = "") -> dict[str, Any]:
    path = f"{RUNTIME}/executions/{execution_id}" + (f"?wait={wait}" if wait else "")
    row: dict[str, Any] = body_of(client.get(path, headers=person.by_key))
    return row


def cancel(client: FlaskClient, person: Person, execution_id: int) -> dict[str, Any]:
    path = f"{RUNTIME}/executions/{execution_id}/cancel"
    row: dict[str, Any] = body_of(client.post(path, headers=person.by_key))
    return row


def wait_until_running(client: FlaskClient, person: Person, execution_id: int) -> None:
    def is_running() -> bool:
        return bool(get(client, person, execution_id)["status"] == "running")

    wait_for(is_running, "the start")


@contextmanager
def no_free_slot(backend: Backend) -> Iterator[None]:
    """Hold every slot for as long as the block."""
    holders = [backend.executor.slots.reserve() for _ in range(backend.settings.worker_concurrency)]
    try:
        yield
    finally:
        for holder in holders:
            with holder:
                pass


class TestPrefer:
    def test_respond_async_is_202_with_the_row_and_its_place(
        self, client: FlaskClient, alice: Person, sleeper: int
    ) -> None:
        response = execute(client, alice, sleeper, **ASYNC)
        row = body_of(response, 202)
        assert row["status"] in ("pending", "running")
        assert (row["output_data"], row["finished_at"], row["duration_ms"]) == (None, None, None)
        assert response.headers["Location"] == f"{RUNTIME}/executions/{row['id']}"
        assert response.headers["Preference-Applied"] == "respond-async"
        listed = client.get(f"{RUNTIME}/executions?agent_id={sleeper}", headers=alice.by_key)
        assert [one["id"] for one in body_of(listed)] == [row["id"]]
        cancel(client, alice, row["id"])

    def test_respond_async_is_202_however_soon_it_ends(
        self, client: FlaskClient, alice: Person, echo: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def at_once(_: Executor, action: Callable[[], None], place: ExitStack) -> None:
            with place:
                action()

        monkeypatch.setattr(Executor, "in_background", at_once)
        key = {"Idempotency-Key": "as soon as it is asked for"}
        row = body_of(execute(client, alice, echo, **ASYNC, **key), 202)
        assert row["status"] == "completed"
        again = execute(client, alice, echo, **ASYNC, **key)  # what is done is done
        assert body_of(again, 201) == row

    def test_it_ends_in_the_background_as_it_would_have_ended_before_one(
        self, client: FlaskClient, alice: Person, echo: int
    ) -> None:
        row = get(client, alice, begin(client, alice, echo), wait="30")
        assert (row["status"], row["output_data"], row["logs"]) == (
            "completed",
            {"n": 1},
            "hello\n",
        )
        assert row["created_at"] <= row["started_at"] <= row["finished_at"]
        assert row["max_rss_kb"] > 1000
        assert min(row["duration_ms"], row["cpu_ms"]) >= 0

    def test_the_plain_request_tells_times_and_use_too(
        self, client: FlaskClient, alice: Person, echo: int
    ) -> None:
        response = execute(client, alice, echo)
        row = body_of(response, 201)
        assert row["created_at"] <= row["started_at"] <= row["finished_at"]
        assert row["max_rss_kb"] > 1000
        assert "Preference-Applied" not in response.headers

    def test_wait_is_201_when_it_ends_in_time(
        self, client: FlaskClient, alice: Person, echo: int
    ) -> None:
        response = execute(client, alice, echo, Prefer="wait=30")
        assert body_of(response, 201)["status"] == "completed"
        assert response.headers["Preference-Applied"] == "wait=30"
        response = execute(client, alice, echo, Prefer="respond-async, wait=30")
        assert body_of(response, 201)["status"] == "completed"

    def test_wait_is_202_when_it_does_not(
        self, client: FlaskClient, alice: Person, sleeper: int
    ) -> None:
        row = body_of(execute(client, alice, sleeper, Prefer="wait=1"), 202)
        assert row["status"] == "running"
        cancel(client, alice, row["id"])

    @pytest.mark.parametrize("value", ["return=minimal", "wait=-1", "wait=soon", "", ",;=", "wait"])
    def test_what_is_unknown_or_malformed_does_not_count(
        self, client: FlaskClient, alice: Person, echo: int, value: str
    ) -> None:
        response = execute(client, alice, echo, Prefer=value)
        assert body_of(response, 201)["status"] == "completed"
        assert "Preference-Applied" not in response.headers

    @pytest.mark.parametrize(
        ("header", "patience", "applied"),
        [
            ("", None, ""),
            ("respond-async", 0.0, "respond-async"),
            ("Respond-Async", 0.0, "respond-async"),
            ("wait=007", 7.0, "wait=7"),
            ('WAIT = "7"', 7.0, "wait=7"),
            ("wait=7, wait=9", 7.0, "wait=7"),
            ("wait=7,respond-async; x=y", 7.0, "respond-async, wait=7"),
            ("handling=lenient, respond-async", 0.0, "respond-async"),
            ("wait=1e3", None, ""),
            ("wait=²", None, ""),
            ("wait=" + "9" * 5000, None, ""),
            ("respond-async=1", 0.0, "respond-async"),
        ],
    )
    def test_the_header_is_read_as_rfc_7240_says(
        self, header: str, patience: float | None, applied: str
    ) -> None:
        preference = read_preference(header)
        assert (preference.patience_seconds, preference.applied) == (patience, applied)

    def test_errors_come_at_once_as_without_it(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        assert "no ready version" in detail(execute(client, alice, agent_id, **ASYNC), 400)
        assert execute(client, alice, 10**9, **ASYNC).status_code == 404


class TestLine:
    def test_who_does_not_wait_for_it_has_no_time_limit_in_the_line(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(backend.executor.slots, "_wait_seconds", 0.01)
        with no_free_slot(backend):
            execution_id = begin(client, alice, echo)
            assert execute(client, alice, echo).status_code == 503
            row = get(client, alice, execution_id)
            assert (row["status"], row["started_at"]) == ("pending", None)
        assert get(client, alice, execution_id, wait="30")["status"] == "completed"

    def test_full_line_is_503(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(backend.executor, "slots", SlotPool(0, 0, 1.0))
        response = execute(client, alice, echo, **ASYNC)
        assert detail(response, 503) == "All execution slots are busy"
        assert int(response.headers["Retry-After"]) >= 1

    def test_one_that_waits_can_be_cancelled(
        self, client: FlaskClient, alice: Person, backend: Backend, echo: int
    ) -> None:
        with no_free_slot(backend):
            execution_id = begin(client, alice, echo)
            assert cancel(client, alice, execution_id)["status"] == "cancelled"
            wait_for(lambda: execution_id not in backend.executor.held, "its place to be free")
        row = get(client, alice, execution_id)
        assert (row["status"], row["started_at"]) == ("cancelled", None)

    def test_server_without_threads_says_so_and_leaves_no_row_open(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        spent = ThreadPoolExecutor(1)
        spent.shutdown()
        monkeypatch.setattr(backend.executor, "_threads", spent)
        assert execute(client, alice, echo, **ASYNC).status_code == 503
        rows = body_of(client.get(f"{RUNTIME}/executions?agent_id={echo}", headers=alice.by_key))
        assert [(row["status"], row["error_code"]) for row in rows] == [
            ("failed", "sandbox_failure")
        ]
        assert rows[0]["id"] not in backend.executor.held
        assert backend.executor.slots.busy == 0


class TestPoll:
    def test_poll_ends_with_the_execution(
        self, client: FlaskClient, alice: Person, backend: Backend, sleeper: int
    ) -> None:
        execution_id = begin(client, alice, sleeper)
        wait_until_running(client, alice, execution_id)
        with ThreadPoolExecutor(1) as threads:
            other = client.application.test_client()
            poll = threads.submit(get, other, alice, execution_id, "60")
            wait_for(lambda: execution_id in backend.executor._watchers, "the poll to begin")
            cancel(client, alice, execution_id)
            assert poll.result(timeout=20)["status"] == "cancelled"
        assert execution_id not in backend.executor._watchers

    def test_poll_that_is_over_tells_how_it_stands(
        self, client: FlaskClient, alice: Person, backend: Backend, sleeper: int
    ) -> None:
        execution_id = begin(client, alice, sleeper)
        assert get(client, alice, execution_id, wait="1")["status"] in ("pending", "running")
        assert execution_id not in backend.executor._watchers
        cancel(client, alice, execution_id)

    def test_finished_one_and_one_that_nobody_holds_are_answered_at_once(
        self, client: FlaskClient, alice: Person
    ) -> None:
        version = add_version(make_agent(client, alice), "ready")
        done = add_execution(alice, version)
        lost = add_execution(alice, version, status="running", finished_at=None)
        assert get(client, alice, done.id, wait="60")["status"] == "completed"
        assert get(client, alice, lost.id, wait="60")["status"] == "running"

    def test_too_many_polls_are_answered_at_once(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        sleeper: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        execution_id = begin(client, alice, sleeper)
        path = f"{RUNTIME}/executions/{execution_id}?wait=60"
        for taken in ({alice.id: LONG_POLLS // 2}, {0: LONG_POLLS}):  # one's own share, and all
            monkeypatch.setattr(backend.executor, "_polls", Counter(taken))
            response = client.get(path, headers=alice.by_key)
            assert body_of(response)["status"] in ("pending", "running")
            assert response.headers["Retry-After"] == "1"
        monkeypatch.setattr(backend.executor, "_polls", polls := Counter({0: LONG_POLLS - 1}))
        assert get(client, alice, execution_id, wait="1")["status"] in ("pending", "running")
        assert polls == {0: LONG_POLLS - 1}
        cancel(client, alice, execution_id)

    @pytest.mark.parametrize("value", ["-1", "61", "x", "1.5"])
    def test_wait_must_be_a_number_of_seconds(
        self, client: FlaskClient, alice: Person, value: str
    ) -> None:
        response = client.get(f"{RUNTIME}/executions/1?wait={value}", headers=alice.by_key)
        assert detail(response, 400) == "wait must be a whole number from 0 to 60"

    def test_another_users_execution_is_404(
        self, client: FlaskClient, alice: Person, bob: Person
    ) -> None:
        row = add_execution(alice, add_version(make_agent(client, alice), "ready"))
        path = f"{RUNTIME}/executions/{row.id}?wait=5"
        assert detail(client.get(path, headers=bob.by_key), 404) == "Execution not found"


def test_delete_ends_a_background_run_and_its_poll(
    client: FlaskClient, alice: Person, backend: Backend, sleeper: int
) -> None:
    execution_id = begin(client, alice, sleeper)
    wait_until_running(client, alice, execution_id)
    with ThreadPoolExecutor(1) as threads:
        other = client.application.test_client()
        path = f"{RUNTIME}/executions/{execution_id}?wait=60"
        poll = threads.submit(other.get, path, headers=alice.by_key)
        wait_for(lambda: execution_id in backend.executor._watchers, "the poll to begin")
        deleted = client.delete(f"/api/v1/agents/{sleeper}", headers=alice.by_key)
        assert deleted.status_code == 204
        assert poll.result(timeout=20).status_code == 404
    wait_for(lambda: execution_id not in backend.executor.held, "the run to end")


def test_row_is_held_before_anybody_can_see_it(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    insert = executions._insert_execution

    def watched(*arguments: Any, claim: Any, **named: Any) -> Execution:
        def claim_and_look(execution_id: int) -> None:
            claim(execution_id)
            assert execution_id in backend.executor.held
            path = f"file:{backend.settings.database_path}?mode=ro"
            with closing(sqlite3.connect(path, uri=True)) as other:
                query = "SELECT id FROM execution WHERE id = ?"
                seen.extend(row[0] for row in other.execute(query, [execution_id]))

        return insert(*arguments, claim=claim_and_look, **named)

    monkeypatch.setattr(executions, "_insert_execution", watched)
    row = body_of(execute(client, alice, echo), 201)
    assert (row["status"], seen) == ("completed", [])
    assert row["id"] not in backend.executor.held


@pytest.mark.parametrize(
    ("headers", "begins_durably"),
    [({}, False), ({"Idempotency-Key": "flushed"}, True), (ASYNC, True)],
    ids=["waits for the answer", "may ask again", "is answered early"],
)
def test_beginning_is_flushed_where_somebody_relies_on_it(
    client: FlaskClient,
    alice: Person,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    begins_durably: bool,
) -> None:
    seen: list[bool] = []

    def watched(*, is_durable: bool = True) -> AbstractContextManager[None]:
        seen.append(is_durable)
        return write_transaction(is_durable=is_durable)

    monkeypatch.setattr(executions, "write_transaction", watched)
    execution_id = int(execute(client, alice, echo, **headers).get_json()["id"])
    assert get(client, alice, execution_id, wait="30")["status"] == "completed"
    assert seen == [begins_durably, True]


def test_claim_of_an_insert_that_failed_does_not_end_its_successors(
    client: FlaskClient, alice: Person, backend: Backend
) -> None:
    """SQLite gives the id of an insert that was rolled back to the next one."""
    version = add_version(make_agent(client, alice), "ready")
    executor = backend.executor
    with executor.place(User.get_by_id(alice.id), version) as second:
        with executor.place(User.get_by_id(alice.id), version) as first:
            first.claim(10**9)
            second.claim(10**9)
        assert 10**9 in executor.held
        assert isinstance(second, Place)
    assert 10**9 not in executor.held


def test_a_row_that_cannot_be_inserted_gives_its_place_back(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Overloaded("no", 1)

    monkeypatch.setattr(executions, "_insert_execution", full)
    for headers in ({}, ASYNC):
        assert execute(client, alice, echo, **headers).status_code == 503
    assert backend.executor.slots.busy == 0


def test_version_without_artifact_ends_in_the_background_too(
    client: FlaskClient, alice: Person, backend: Backend, echo: int
) -> None:
    version = AgentVersion.get(AgentVersion.agent == echo)
    backend.store.remove_code(echo, version.id)
    backend.store.artifact_path(version.tarball_path).unlink()
    row = get(client, alice, begin(client, alice, echo), wait="30")
    assert (row["status"], row["error_code"]) == ("failed", "sandbox_failure")
    assert "missing on the server" in row["error_message"]
    assert (row["tier"], row["duration_ms"], row["cpu_ms"]) == (None, None, None)


ENDINGS = """
import os, sys

def handle(payload):
    print("hello")
    match payload.get("end"):
        case "raise":
            raise ValueError("no")
        case "exit":
            os._exit(3)
        case "not json":
            return {"a": object()}
    return payload
"""


@pytest.mark.parametrize("end", ["return \u00e9 \u2028", "raise", "exit", "not json"])
def test_answer_is_what_is_read_later(client: FlaskClient, alice: Person, end: str) -> None:
    """It is made of what was written, and not read again."""
    agent_id = deploy(client, alice, ENDINGS)
    for _ in range(2):  # without and with a template
        body = {"payload": {"end": end}}
        path = f"{RUNTIME}/{agent_id}/execute"
        row = body_of(client.post(path, json=body, headers=alice.by_key), 201)
        assert row == get(client, alice, row["id"])


def _cancel(client: FlaskClient, alice: Person, backend: Backend, agent_id: int) -> None:
    (execution_id,) = backend.executor._held
    assert cancel(client, alice, execution_id)["status"] == "cancelled"


def _delete(client: FlaskClient, alice: Person, backend: Backend, agent_id: int) -> None:
    deleted = client.delete(f"/api/v1/agents/{agent_id}", headers=alice.by_key)
    assert deleted.status_code == 204


def _interrupt(client: FlaskClient, alice: Person, backend: Backend, agent_id: int) -> None:
    backend.executor.interrupt()


@pytest.mark.parametrize(
    ("stop", "answer"),
    [
        (_cancel, (201, "cancelled", "cancelled")),
        (_delete, (404, None, None)),
        (_interrupt, (201, "failed", "server_restarted")),
    ],
    ids=["cancelled", "deleted", "interrupted"],
)
@pytest.mark.parametrize("is_unpacked", [True, False], ids=["unpacked", "packed"])
def test_what_is_stopped_before_its_run_never_comes_to_a_child(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[FlaskClient, Person, Backend, int], None],
    answer: tuple[int, str | None, str | None],
    is_unpacked: bool,
) -> None:
    handed_over: list[object] = []
    run = backend.executor.run
    version = AgentVersion.get(AgentVersion.agent == echo)

    def stopped_first(*arguments: Any) -> Any:
        stop(client.application.test_client(), alice, backend, echo)
        if not is_unpacked:
            backend.store.remove_code(echo, version.id)
        return run(*arguments)

    monkeypatch.setattr(backend.executor, "run", stopped_first)
    monkeypatch.setattr(Conversation, "hand_over", lambda *_: handed_over.append(_))
    # An interrupt that is out of time tells nobody: all that is left is that the server ends.
    monkeypatch.setattr(executor_module, "_INTERRUPT_SECONDS", -1)
    try:
        response = execute(client, alice, echo)
    finally:
        backend.executor.end()
        backend.executor.begin()
    row = response.get_json()
    assert (response.status_code, row.get("status"), row.get("error_code")) == answer
    assert handed_over == []


GRACE = """
import signal, time

def handle(payload):
    def end(*_):
        print("tidied up", flush=True)
        {end}
    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


def printed(backend: Backend, execution_id: int) -> str:
    """Return what a running execution has printed so far."""
    conversation = backend.sandbox._conversations.get(f"execution-{execution_id}")
    return "" if conversation is None else conversation._log.text()


@pytest.mark.parametrize("end", ["raise SystemExit", "pass"])
def test_cancelled_agent_may_tidy_up_and_its_prints_are_kept(
    client: FlaskClient, alice: Person, backend: Backend, end: str
) -> None:
    """It gets SIGTERM, and the kill if it does not end; the row is final from the first moment."""
    agent_id = deploy(client, alice, GRACE.replace("{end}", end))
    execution_id = begin(client, alice, agent_id)
    path = f"/api/v1/runtime/executions/{execution_id}"
    wait_for(lambda: "ready" in printed(backend, execution_id), "the agent to be ready")
    assert cancel(client, alice, execution_id)["status"] == "cancelled"
    wait_for(lambda: execution_id not in backend.executor.held, "the run to end")
    row = body_of(client.get(path, headers=alice.by_key))
    assert (row["status"], row["error_code"], row["logs"]) == (
        "cancelled",
        "cancelled",
        "ready\ntidied up\n",
    )
    assert row["duration_ms"] >= 0


def test_deleted_agent_gets_no_grace_not_even_one_that_has_begun(
    client: FlaskClient, alice: Person, backend: Backend
) -> None:
    agent_id = deploy(client, alice, GRACE.replace("{end}", "pass"))
    execution_id = begin(client, alice, agent_id)
    wait_for(lambda: "ready" in printed(backend, execution_id), "the agent to be ready")
    cancel(client, alice, execution_id)
    assert client.delete(f"/api/v1/agents/{agent_id}", headers=alice.by_key).status_code == 204
    assert printed(backend, execution_id) == ""


def test_code_that_is_unpacked_for_an_agent_that_is_gone_does_not_stay(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = AgentVersion.get(AgentVersion.agent == echo)
    backend.store.remove_code(echo, version.id)
    unpack = backend.reader.unpack

    def unpack_and_delete(*arguments: Any, **named: Any) -> Any:
        unpacked = unpack(*arguments, **named)
        assert client.delete(f"/api/v1/agents/{echo}", headers=alice.by_key).status_code == 204
        return unpacked

    monkeypatch.setattr(backend.reader, "unpack", unpack_and_delete)
    assert execute(client.application.test_client(), alice, echo).status_code == 404
    assert not backend.store.code_dir(echo, version.id).parent.exists()
