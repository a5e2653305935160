"""Idempotency-Key: what is asked for twice is done once, and another request is told apart."""

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from anymind_lite.backend import Backend
from anymind_lite.clock import SteadyClock, utc_now
from anymind_lite.database import write_transaction
from anymind_lite.models import AgentVersion, Execution, IdempotencyKey
from anymind_lite.services import idempotency
from anymind_lite.services.idempotency import forget_expired
from anymind_lite.services.slots import SlotPool
from tests.api.conftest import (
    ECHO_ARCHIVE,
    RUNTIME,
    Person,
    body_of,
    deploy,
    detail,
    files_under,
    make_agent,
    set_agent_status,
)
from tests.api.test_async import cancel, get, no_free_slot

OTHER_ARCHIVE = ECHO_ARCHIVE[:8] + bytes([ECHO_ARCHIVE[8] ^ 1]) + ECHO_ARCHIVE[9:]  # XFL of gzip
ANOTHER_REQUEST = "This Idempotency-Key was used for another request; take a new one"


def execute(
    client: FlaskClient, person: Person, agent_id: int, key: str, n: int = 1, prefer: str = ""
) -> TestResponse:
    return client.post(
        f"{RUNTIME}/{agent_id}/execute",
        json={"payload": {"n": n}},
        headers={**person.by_key, "Idempotency-Key": key, "Prefer": prefer},
    )


def upload(
    client: FlaskClient, person: Person, agent_id: int, key: str, archive: bytes = ECHO_ARCHIVE
) -> TestResponse:
    return client.post(
        f"/api/v1/uploads/agent/{agent_id}",
        data={"file": (io.BytesIO(archive), "agent.tar.gz")},
        headers={**person.by_key, "Idempotency-Key": key},
    )


def executions_of(agent_id: int) -> int:
    return int(Execution.select().where(Execution.agent == agent_id).count())


class TestExecute:
    def test_same_key_and_body_is_the_same_execution(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        first = execute(client, alice, echo, "k")
        assert "Idempotent-Replayed" not in first.headers
        for prefer in ("", "respond-async", "wait=5"):
            again = execute(client, alice, echo, "k", prefer=prefer)
            assert body_of(again, 201) == body_of(first, 201)
            assert again.headers["Idempotent-Replayed"] == "true"
        assert executions_of(echo) == 1

    def test_body_is_compared_as_it_is_understood(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        first = body_of(execute(client, alice, echo, "k"), 201)
        again = client.post(
            f"{RUNTIME}/{echo}/execute",
            data=b'{ "payload" : {"n":1}, "unknown": 2 }',
            headers={
                **alice.by_key,
                "Idempotency-Key": "k",
                "Content-Type": "application/json",
            },
        )
        assert body_of(again, 201)["id"] == first["id"]

    def test_another_body_agent_or_operation_is_400(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        body_of(execute(client, alice, echo, "k"), 201)
        other = make_agent(client, alice, "other")
        assert detail(execute(client, alice, echo, "k", n=2), 400) == ANOTHER_REQUEST
        assert detail(execute(client, alice, other, "k"), 400) == ANOTHER_REQUEST
        assert detail(upload(client, alice, other, "k"), 400) == ANOTHER_REQUEST
        assert executions_of(echo) == 1

    def test_keys_are_each_users_own(
        self,
        client: FlaskClient,
        alice: Person,
        bob: Person,
        echo: int,
    ) -> None:
        mine = body_of(execute(client, alice, echo, "k"), 201)
        theirs = deploy(client, bob, "def handle(payload):\n    return {'bob': 1}\n")
        assert body_of(execute(client, bob, theirs, "k"), 201)["id"] != mine["id"]

    def test_one_that_still_runs_is_409_with_its_id(
        self, client: FlaskClient, alice: Person, sleeper: int
    ) -> None:
        row = body_of(execute(client, alice, sleeper, "k", prefer="respond-async"), 202)
        again = execute(client, alice, sleeper, "k", prefer="respond-async")
        assert detail(again, 409) == (
            f"Execution {row['id']} of this Idempotency-Key has not ended yet"
        )
        assert again.headers["Location"] == f"{RUNTIME}/executions/{row['id']}"
        cancel(client, alice, row["id"])
        assert body_of(execute(client, alice, sleeper, "k"), 201)["status"] == "cancelled"
        assert executions_of(sleeper) == 1

    def test_failures_are_replayed_too(self, client: FlaskClient, alice: Person) -> None:
        agent_id = deploy(client, alice, "def handle(payload):\n    raise ValueError('no')\n")
        first = body_of(execute(client, alice, agent_id, "k"), 201)
        assert first["status"] == "failed"
        assert body_of(execute(client, alice, agent_id, "k"), 201) == first

    def test_replay_needs_no_agent_that_can_run(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        first = body_of(execute(client, alice, echo, "k"), 201)
        set_agent_status(echo, "archived")
        assert body_of(execute(client, alice, echo, "k"), 201) == first

    def test_request_that_was_turned_away_leaves_the_key_free(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(backend.executor, "slots", SlotPool(0, 0, 1.0))
            assert execute(client, alice, echo, "k").status_code == 503
        assert "Idempotent-Replayed" not in execute(client, alice, echo, "k").headers

    @pytest.mark.parametrize("prefer", ["", "respond-async"])
    def test_so_does_one_that_was_turned_away_when_it_had_a_row(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
        prefer: str,
    ) -> None:
        with monkeypatch.context() as patch, no_free_slot(backend):
            patch.setattr(backend.executor.slots, "_wait_seconds", 0.01)
            if prefer:  # it waits for as long as it takes, but there are no threads
                spent = ThreadPoolExecutor(1)
                spent.shutdown()
                patch.setattr(backend.executor, "_threads", spent)
            refused = execute(client, alice, echo, "k", prefer=prefer)
            assert refused.status_code == 503
        again = execute(client, alice, echo, "k")
        assert body_of(again, 201)["status"] == "completed"
        assert "Idempotent-Replayed" not in again.headers

    def test_key_whose_execution_goes_at_this_moment_is_free(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        body_of(execute(client, alice, echo, "k"), 201)
        find = idempotency._find

        def find_then_lose(*arguments: Any) -> Any:
            found = find(*arguments)
            with write_transaction():
                Execution.delete().where(Execution.agent == echo).execute()
            return found

        monkeypatch.setattr(idempotency, "_find", find_then_lose)
        assert body_of(execute(client, alice, echo, "k"), 201)["status"] == "completed"

    def test_many_at_once_run_one(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        app = client.application

        def ask(_: int) -> TestResponse:
            return execute(app.test_client(), alice, echo, "k")

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(ask, range(16)))
        assert executions_of(echo) == 1
        assert {answer.status_code for answer in answers} <= {201, 409}
        first = [one for one in answers if "Idempotent-Replayed" not in one.headers]
        assert [one.status_code for one in first if one.status_code == 201] == [201]

    def test_key_goes_with_the_agent(
        self,
        client: FlaskClient,
        alice: Person,
        echo: int,
    ) -> None:
        body_of(execute(client, alice, echo, "k"), 201)
        client.delete(f"/api/v1/agents/{echo}", headers=alice.by_key)
        assert IdempotencyKey.select().where(IdempotencyKey.user == alice.id).count() == 0


class TestUpload:
    def test_same_archive_is_the_same_version_and_one_file(
        self, client: FlaskClient, alice: Person, backend: Backend
    ) -> None:
        agent_id = make_agent(client, alice)
        first = body_of(upload(client, alice, agent_id, "k"), 201)
        again = upload(client, alice, agent_id, "k")
        assert body_of(again, 201)["id"] == first["id"]
        assert again.headers["Idempotent-Replayed"] == "true"
        folder = backend.settings.storage_path / "agents" / str(agent_id)
        assert len(files_under(folder)) == 1
        assert files_under(backend.settings.storage_path / ".incoming") == []

    def test_another_archive_is_400_and_leaves_nothing(
        self, client: FlaskClient, alice: Person, backend: Backend
    ) -> None:
        agent_id = make_agent(client, alice)
        body_of(upload(client, alice, agent_id, "k"), 201)
        refused = upload(client, alice, agent_id, "k", OTHER_ARCHIVE)
        assert detail(refused, 400) == ANOTHER_REQUEST
        folder = backend.settings.storage_path / "agents" / str(agent_id)
        assert len(files_under(folder)) == 1

    def test_replay_needs_no_agent_that_takes_uploads(
        self, client: FlaskClient, alice: Person
    ) -> None:
        agent_id = make_agent(client, alice)
        first = body_of(upload(client, alice, agent_id, "k"), 201)
        set_agent_status(agent_id, "archived")
        assert body_of(upload(client, alice, agent_id, "k"), 201)["id"] == first["id"]
        assert upload(client, alice, agent_id, "other").status_code == 400

    def test_many_at_once_make_one_version(self, client: FlaskClient, alice: Person) -> None:
        agent_id, app = make_agent(client, alice), client.application

        def send(_: int) -> TestResponse:
            return upload(app.test_client(), alice, agent_id, "k")

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(send, range(8)))
        assert len({body_of(answer, 201)["id"] for answer in answers}) == 1
        assert AgentVersion.select().where(AgentVersion.agent == agent_id).count() == 1


BAD_KEYS = {"empty": "", "blank": "   ", "long": "x" * 256, "tab": "a\tb", "umlaut": "schlüssel"}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_bad_key_is_400(client: FlaskClient, alice: Person, echo: int, name: str) -> None:
    sentence = "Idempotency-Key must be 1 to 255 printable ASCII characters"
    assert detail(execute(client, alice, echo, BAD_KEYS[name]), 400) == sentence
    assert detail(upload(client, alice, echo, BAD_KEYS[name]), 400) == sentence
    assert executions_of(echo) == 0


@pytest.mark.parametrize("key", ["x" * 255, '"8e03978e-40d5"', "a b", "~"])
def test_good_key(client: FlaskClient, alice: Person, echo: int, key: str) -> None:
    assert execute(client, alice, echo, key).status_code == 201
    assert execute(client, alice, echo, key).headers["Idempotent-Replayed"] == "true"


def test_key_holds_for_a_day(client: FlaskClient, alice: Person, echo: int) -> None:
    first = body_of(execute(client, alice, echo, "k"), 201)
    for hours, is_same in ((-48, True), (23.9, True), (24.1, False)):
        later = utc_now() + timedelta(hours=hours)
        forget_expired(SteadyClock(0, now=lambda at=later: at))  # type: ignore[misc]
        again = body_of(execute(client, alice, echo, "k"), 201)
        assert (again["id"] == first["id"]) is is_same
    assert get(client, alice, first["id"])["status"] == "completed"


def test_clock_that_stepped_ends_no_key(client: FlaskClient, alice: Person, echo: int) -> None:
    first = body_of(execute(client, alice, echo, "k"), 201)
    now, elapsed = utc_now(), 0.0
    clock = SteadyClock(3600, lambda: now, lambda: elapsed)
    for seconds, step, is_same in (
        (3600, timedelta(0), True),
        (600, timedelta(days=54 * 365), True),
        (3000, timedelta(0), True),
        (600, timedelta(0), False),  # believed, after an hour
    ):
        elapsed += seconds
        now += timedelta(seconds=seconds) + step
        forget_expired(clock)
        again = body_of(execute(client, alice, echo, "k"), 201)
        assert (again["id"] == first["id"]) is is_same


def test_key_of_a_clock_that_stood_in_the_future_is_forgotten(
    client: FlaskClient, alice: Person, echo: int
) -> None:
    first = body_of(execute(client, alice, echo, "k"), 201)
    now = utc_now() - timedelta(days=54 * 365)
    forget_expired(SteadyClock(0, lambda: now))
    assert body_of(execute(client, alice, echo, "k"), 201)["id"] != first["id"]


def test_key_and_row_are_written_together(
    client: FlaskClient,
    alice: Person,
    echo: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("anymind_lite.services.executions.remember", broken)
        assert execute(client, alice, echo, "k").status_code == 507
    assert executions_of(echo) == 0
    with write_transaction():
        assert IdempotencyKey.select().where(IdempotencyKey.user == alice.id).count() == 0
