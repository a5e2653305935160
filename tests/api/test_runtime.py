"""Executing agents, and the executions."""

import json
import tracemalloc
from typing import Any

import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from anymind_lite.database import write_transaction
from anymind_lite.errors import AgentBusy, Overloaded
from anymind_lite.models import Agent, AgentVersion, ErrorCode, Execution, User
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.policy import Limits, Tier
from anymind_lite.services import executions
from anymind_lite.services.pages import Page
from tests.api.conftest import (
    RUNTIME,
    Person,
    add_execution,
    add_version,
    body_of,
    deploy,
    detail,
    make_agent,
    upload,
)
from tests.waiting import wait_for

EXECUTION_KEYS = [
    "id",
    "agent_version_id",
    "user_id",
    "status",
    "input_data",
    "output_data",
    "error_message",
    "logs",
    "created_at",
    "updated_at",
    "error_code",
    "tier",
    "layers",
    "started_at",
    "finished_at",
    "duration_ms",
    "cpu_ms",
    "max_rss_kb",
    "warm",
    "queue_ms",
    "start_ms",
    "wall_ms",
]


@pytest.fixture
def version(client: FlaskClient, alice: Person) -> AgentVersion:
    return add_version(make_agent(client, alice), "ready")


class TestExecute:
    def test_uploaded_agent_is_built_and_answers(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        version = body_of(upload(client, alice, agent_id), 201)
        path = f"/api/v1/agents/{agent_id}"

        def is_built() -> bool:
            return bool(body_of(client.get(path, headers=alice.by_key))["status"] != "building")

        wait_for(is_built, "the build")
        agent = body_of(client.get(path, headers=alice.by_key))
        assert (agent["status"], agent["current_version_id"]) == ("ready", version["id"])
        payload = {"input": "Hello, wörld! 👋", "deep": [1, {"a": None}]}
        response = client.post(
            f"{RUNTIME}/{agent_id}/execute", json={"payload": payload}, headers=alice.by_key
        )
        execution = body_of(response, 201)
        assert list(execution) == EXECUTION_KEYS
        assert execution["status"] == "completed"
        assert execution["agent_version_id"] == version["id"]
        assert execution["user_id"] == alice.id
        assert execution["input_data"] == payload
        assert execution["output_data"] == {"echo": payload}
        assert execution["error_message"] is None

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({}, "payload is required"),
            ({"payload": None}, "payload must not be null"),
            ({"payload": []}, "payload must be a JSON object"),
            ({"payload": "text"}, "payload must be a JSON object"),
            ({"payload": 1}, "payload must be a JSON object"),
            ({"payload": True}, "payload must be a JSON object"),
            ({"input": "x"}, "payload is required"),
        ],
    )
    def test_payload_must_be_an_object(
        self, client: FlaskClient, alice: Person, body: dict[str, Any], sentence: str
    ) -> None:
        agent_id = make_agent(client, alice)
        response = client.post(f"{RUNTIME}/{agent_id}/execute", json=body, headers=alice.by_key)
        assert detail(response, 400) == sentence

    def test_agent_without_a_ready_version_is_400(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        response = client.post(
            f"{RUNTIME}/{agent_id}/execute", json={"payload": {}}, headers=alice.by_key
        )
        assert "no ready version" in detail(response, 400)

    def test_archived_agent_is_400(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        with write_transaction():
            Agent.update(status="archived", current_version_id=version.id).where(
                Agent.id == version.agent_id
            ).execute()
        response = client.post(
            f"{RUNTIME}/{version.agent_id}/execute", json={"payload": {}}, headers=alice.by_key
        )
        assert detail(response, 400) == "Agent is archived"
        assert Execution.select().where(Execution.agent == version.agent_id).count() == 0

    @pytest.mark.parametrize(("kind", "status"), [(Overloaded, 503), (AgentBusy, 429)])
    def test_full_server_or_agent_says_when_to_come_back(
        self,
        client: FlaskClient,
        alice: Person,
        monkeypatch: pytest.MonkeyPatch,
        kind: type[Overloaded],
        status: int,
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise kind("All are busy", retry_after_seconds=7)

        monkeypatch.setattr(executions, "execute_agent", full)
        response = client.post(f"{RUNTIME}/1/execute", json={"payload": {}}, headers=alice.by_key)
        assert detail(response, status) == "All are busy"
        assert response.headers["Retry-After"] == "7"


def test_cpu_time_that_is_used_up_is_told_from_wall_time(
    client: FlaskClient, alice: Person, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP alone it takes threads on two CPUs that have nothing else to do."""
    agent_id = deploy(client, alice, "def handle(payload):\n    while True: pass\n")
    monkeypatch.setattr(backend.executor, "_limits", Limits(wall_seconds=60, cpu_seconds=1))
    path = f"{RUNTIME}/{agent_id}/execute"
    execution = body_of(client.post(path, json={"payload": {}}, headers=alice.by_key), 201)
    assert (execution["status"], execution["error_code"]) == ("failed", "cpu_limit")
    assert execution["error_message"] == "The agent used more than 1 s of CPU time."


def test_every_reason_has_a_code_but_success() -> None:
    codes = {reason: executions._error_code(reason) for reason in StopReason}
    assert [reason for reason, code in codes.items() if code is None] == [StopReason.RETURNED]
    assert codes[StopReason.IMPORT_FAILED] is ErrorCode.EXCEPTION
    assert set(codes.values()) - {None} == set(ErrorCode)


@pytest.mark.parametrize("reason", [StopReason.SANDBOX_FAILURE, StopReason.CANCELLED])
def test_what_ends_with_the_server_is_not_the_sandboxs_failure(
    client: FlaskClient,
    alice: Person,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    reason: StopReason,
) -> None:
    agent_id = deploy(client, alice, "def handle(payload): pass\n")

    def end(*_: object, **__: object) -> Outcome:
        backend.executor.interrupt()
        return Outcome(reason, "what the sandbox saw", "printed", 1, tier=Tier.A, layers=("x", "y"))

    monkeypatch.setattr(backend.sandbox, "run", end)
    path = f"{RUNTIME}/{agent_id}/execute"
    try:
        response = client.post(path, json={"payload": {}}, headers=alice.by_key)
        detail(client.post(path, json={"payload": {}}, headers=alice.by_key), 503)
    finally:
        backend.executor.begin()
    execution = body_of(response, 201)
    assert (execution["status"], execution["error_code"]) == ("failed", "server_restarted")
    assert execution["error_message"] == "Interrupted by a server restart."
    assert (execution["logs"], execution["tier"]) == ("printed", "A")
    assert execution["layers"] == ["x", "y"]


class TestList:
    def test_newest_first_with_logs(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        first = add_execution(alice, version, input_data='{"n": 1}', logs="printed\n")
        second = add_execution(
            alice, version, status="failed", output_data=None, error_message="boom"
        )
        listed = body_of(client.get(f"{RUNTIME}/executions", headers=alice.by_key))
        assert [row["id"] for row in listed] == [second.id, first.id]
        assert list(listed[0]) == EXECUTION_KEYS
        assert (listed[0]["output_data"], listed[0]["error_message"]) == (None, "boom")
        assert (listed[1]["input_data"], listed[1]["logs"]) == ({"n": 1}, "printed\n")
        for query, expected in (("skip=1", [first.id]), ("limit=1", [second.id])):
            response = client.get(f"{RUNTIME}/executions?{query}", headers=alice.by_key)
            assert [row["id"] for row in body_of(response)] == expected

    def test_filter_by_version(
        self, client: FlaskClient, alice: Person, bob: Person, version: AgentVersion
    ) -> None:
        other = add_version(make_agent(client, alice), "ready")
        of_bob = add_version(make_agent(client, bob), "ready")
        wanted = add_execution(alice, version)
        add_execution(alice, other)
        add_execution(bob, of_bob)

        def listed(version_id: int) -> list[int]:
            path = f"{RUNTIME}/executions?agent_version_id={version_id}"
            return [row["id"] for row in body_of(client.get(path, headers=alice.by_key))]

        assert listed(version.id) == [wanted.id]
        assert listed(of_bob.id) == []
        assert listed(2**63 - 1) == []
        assert listed(0) == []

    def test_filters_add_up(
        self, client: FlaskClient, alice: Person, bob: Person, version: AgentVersion
    ) -> None:
        other = add_version(make_agent(client, alice), "ready")
        failed, running, done, elsewhere = (
            add_execution(alice, version, status="failed"),
            add_execution(alice, version, status="running", finished_at=None),
            add_execution(alice, version),
            add_execution(alice, other, status="failed"),
        )
        add_execution(bob, add_version(make_agent(client, bob), "ready"), status="failed")
        agent = version.agent_id
        for query, expected in (
            ("status=failed", [elsewhere, failed]),
            ("status=running", [running]),
            (f"agent_id={agent}", [done, running, failed]),
            (f"agent_id={agent}&status=failed", [failed]),
            (f"agent_version_id={other.id}&status=failed", [elsewhere]),
            (f"agent_version_id={other.id}&agent_id={agent}", []),
            (f"before_id={done.id}&limit=1", [running]),
            (f"status=failed&before_id={elsewhere.id}", [failed]),
            ("before_id=0", []),
        ):
            response = client.get(f"{RUNTIME}/executions?{query}", headers=alice.by_key)
            assert [row["id"] for row in body_of(response)] == [row.id for row in expected], query

    @pytest.mark.parametrize("value", ["", "done", "COMPLETED", "completed,failed"])
    def test_status_must_be_one(self, client: FlaskClient, alice: Person, value: str) -> None:
        response = client.get(f"{RUNTIME}/executions?status={value}", headers=alice.by_key)
        words = "pending, running, completed, failed, cancelled"
        assert detail(response, 400) == f"status must be one of {words}"

    @pytest.mark.parametrize("value", ["x", "", "1.0", "-1", "9223372036854775808"])
    def test_filter_must_be_an_id(self, client: FlaskClient, alice: Person, value: str) -> None:
        response = client.get(
            f"{RUNTIME}/executions?agent_version_id={value}", headers=alice.by_key
        )
        assert detail(response, 400).startswith("agent_version_id must be a whole number from 0")

    def test_is_the_array_of_what_each_execution_answers(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        values = [{"text": 'wörld "👋" \u2028', "deep": [1.5, {"a": None}]}, {}, None]
        rows = [
            add_execution(
                alice,
                version,
                input_data=json.dumps(value or {}, ensure_ascii=False),
                output_data=None if value is None else json.dumps(value),
                error_message='a "quoted"\\ word' if value is None else None,
                logs="línea\n",
            )
            for value in values
        ]
        response = client.get(
            f"{RUNTIME}/executions",
            headers={**alice.by_key, "Origin": "http://localhost:3000"},
        )
        listed = body_of(response)
        path = f"{RUNTIME}/executions"
        assert listed == [
            body_of(client.get(f"{path}/{row.id}", headers=alice.by_key)) for row in rows[::-1]
        ]
        assert [row["output_data"] for row in listed] == values[::-1]
        assert all(list(row) == EXECUTION_KEYS for row in listed)
        assert response.content_type == "application/json"
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert response.headers["Cache-Control"] == "no-store"

    def test_nothing_is_an_empty_array(self, client: FlaskClient, alice: Person) -> None:
        assert client.get(f"{RUNTIME}/executions", headers=alice.by_key).data == b"[]"

    def test_bad_window_is_400(self, client: FlaskClient, alice: Person) -> None:
        response = client.get(f"{RUNTIME}/executions?skip=-1", headers=alice.by_key)
        assert detail(response, 400).startswith("skip must be a whole number")

    def test_row_that_vanishes_meanwhile_is_left_out(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        first, gone, last = [add_execution(alice, version) for _ in range(3)]
        rows = executions.iter_executions(User.get_by_id(alice.id), Page())
        assert next(rows).id == last.id
        with write_transaction():
            Execution.delete().where(Execution.id == gone.id).execute()
        assert [row.id for row in rows] == [first.id]

    def test_list_takes_the_memory_of_few_rows(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        text = json.dumps({"numbers": [0.5] * 100_000})  # half a megabyte of small values
        for _ in range(40):
            add_execution(alice, version, input_data=text, output_data=text)
        tracemalloc.start()
        try:
            response = client.get(f"{RUNTIME}/executions", headers=alice.by_key, buffered=False)
            sent = sum(len(piece) for piece in response.iter_encoded())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent > 40 * 2 * len(text)
        assert peak < 24 * len(text)  # of 80


class TestGetAndCancel:
    def test_get(self, client: FlaskClient, alice: Person, version: AgentVersion) -> None:
        row = add_execution(alice, version, output_data=json.dumps({"a": ["b", 1.5, "é"]}))
        answer = body_of(client.get(f"{RUNTIME}/executions/{row.id}", headers=alice.by_key))
        assert answer["output_data"] == {"a": ["b", 1.5, "é"]}

    def test_cancel_kills_and_says_cancelled(
        self,
        client: FlaskClient,
        alice: Person,
        version: AgentVersion,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        row = add_execution(alice, version, status="running", output_data=None, finished_at=None)
        stopped: list[int] = []
        monkeypatch.setattr(backend.executor, "cancel", stopped.append)
        path = f"{RUNTIME}/executions/{row.id}/cancel"
        answer = body_of(client.post(path, headers=alice.by_key))
        assert list(answer) == EXECUTION_KEYS
        assert answer["status"] == "cancelled"
        assert stopped == [row.id]

    def test_cancel_of_a_finished_one_changes_nothing(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        row = add_execution(alice, version)
        before = body_of(client.get(f"{RUNTIME}/executions/{row.id}", headers=alice.by_key))
        path = f"{RUNTIME}/executions/{row.id}/cancel"
        assert body_of(client.post(path, headers=alice.by_key)) == before

    def test_cancel_takes_any_body_or_none(
        self, client: FlaskClient, alice: Person, version: AgentVersion
    ) -> None:
        row = add_execution(alice, version)
        path = f"{RUNTIME}/executions/{row.id}/cancel"
        body_of(client.post(path, data=b"{", headers=alice.by_key))
        headers = {**alice.by_key, "Content-Type": "application/json"}
        body_of(client.post(path, headers=headers))


def test_a_slot_that_comes_while_the_row_is_written(
    client: FlaskClient,
    alice: Person,
    version: AgentVersion,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row says `pending`; the execution must go through the wait all the same."""
    holders = [backend.executor.slots.reserve() for _ in range(backend.settings.worker_concurrency)]
    insert = executions._insert_execution

    def insert_then_free(*arguments: Any, **named: Any) -> int:
        row = insert(*arguments, **named)
        with holders.pop():
            pass
        return row

    done = Outcome(StopReason.RETURNED, "", "", 1, details={"result": {"ran": True}})
    monkeypatch.setattr(executions, "_insert_execution", insert_then_free)
    monkeypatch.setattr(backend.executor, "run", lambda *_: done)
    set_current(version)
    path = f"{RUNTIME}/{version.agent_id}/execute"
    try:
        answer = body_of(client.post(path, json={"payload": {}}, headers=alice.by_key), 201)
    finally:
        for holder in holders:
            with holder:
                pass
    assert (answer["status"], answer["output_data"]) == ("completed", {"ran": True})


def set_current(version: AgentVersion) -> None:
    with write_transaction():
        Agent.update(current_version_id=version.id, status="ready").where(
            Agent.id == version.agent_id
        ).execute()
