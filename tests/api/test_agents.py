"""Agents and their versions."""

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from peewee import OperationalError

from anymind_lite.backend import Backend
from anymind_lite.models import Agent, AgentVersion, Execution, IdempotencyKey
from anymind_lite.services import agents, retention
from anymind_lite.services.retention import remove_history
from tests.api.conftest import (
    Person,
    add_execution,
    add_version,
    body_of,
    detail,
    files_under,
    make_agent,
    set_agent_status,
    upload,
)

AGENTS = "/api/v1/agents"
AGENT_KEYS = [
    "id",
    "name",
    "description",
    "user_id",
    "status",
    "current_version_id",
    "created_at",
    "updated_at",
]
VERSION_KEYS = [
    "id",
    "agent_id",
    "version",
    "status",
    "build_log",
    "tarball_path",
    "entrypoint",
    "config",
    "created_at",
    "updated_at",
    "limits",
    "subprocess",
    "concurrency",
]


def patch(client: FlaskClient, person: Person, agent_id: int, **changes: Any) -> Any:
    return client.patch(f"{AGENTS}/{agent_id}", json=changes, headers=person.by_key)


class TestCreate:
    def test_new_agent_is_a_draft(self, client: FlaskClient, alice: Person) -> None:
        body = {"name": "my-agent", "description": "My AI agent"}
        agent = body_of(client.post(AGENTS, json=body, headers=alice.by_key), 201)
        assert list(agent) == AGENT_KEYS
        assert agent["user_id"] == alice.id
        assert (agent["name"], agent["description"]) == ("my-agent", "My AI agent")
        assert (agent["status"], agent["current_version_id"]) == ("draft", None)
        assert agent["created_at"] == agent["updated_at"]
        assert agent["created_at"].endswith("Z")

    def test_token_works_as_well_as_key(self, client: FlaskClient, alice: Person) -> None:
        body_of(client.post(AGENTS, json={"name": "a"}, headers=alice.bearer), 201)

    @pytest.mark.parametrize("name", ["a", "x" * 200, "Агент №1", "👩‍👩‍👧 بی‌نام", " padded "])
    def test_names_in_every_script_come_back_unchanged(
        self, client: FlaskClient, alice: Person, name: str
    ) -> None:
        agent_id = make_agent(client, alice, name)
        agent = body_of(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key))
        assert agent["name"] == name

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({}, "name is required"),
            ({"name": None}, "name must not be null"),
            ({"name": 5}, "name must be a string"),
            ({"name": ""}, "name must not be empty"),
            ({"name": "x" * 201}, "name must have at most 200 characters"),
            ({"name": "a\0b"}, "name must not contain control characters"),
            ({"name": "a\u2028b"}, "name must not contain control characters"),
            ({"name": "a", "description": 5}, "description must be a string"),
            (
                {"name": "a", "description": "x" * 10001},
                "description must have at most 10000 characters",
            ),
        ],
    )
    def test_bad_input_is_400(
        self, client: FlaskClient, alice: Person, body: dict[str, Any], sentence: str
    ) -> None:
        assert detail(client.post(AGENTS, json=body, headers=alice.by_key), 400) == sentence


class TestList:
    def test_newest_first_in_windows(self, client: FlaskClient, alice: Person) -> None:
        ids = [make_agent(client, alice, f"a{number}") for number in range(5)][::-1]

        def listed(query: str) -> list[int]:
            answer = body_of(client.get(AGENTS + query, headers=alice.by_key))
            return [agent["id"] for agent in answer]

        assert listed("") == ids
        assert listed("?limit=2") == ids[:2]
        assert listed("?skip=2&limit=2") == ids[2:4]
        assert listed("?skip=4") == ids[4:]
        assert listed("?skip=5") == []
        assert listed("?skip=9223372036854775807&limit=1000") == []
        assert listed("?unknown=1") == ids


class TestUpdate:
    def test_what_is_left_out_stays(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        agent = body_of(patch(client, alice, agent_id, description="new"))
        assert list(agent) == AGENT_KEYS
        assert (agent["name"], agent["description"]) == ("my-agent", "new")
        agent = body_of(patch(client, alice, agent_id, name="other"))
        assert (agent["name"], agent["description"]) == ("other", "new")
        agent = body_of(patch(client, alice, agent_id, description=None))
        assert (agent["name"], agent["description"]) == ("other", None)

    def test_nothing_changes_nothing(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        before = body_of(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key))
        assert body_of(patch(client, alice, agent_id)) == before
        assert body_of(patch(client, alice, agent_id, id=7, user_id=7, unknown=1)) == before

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"name": None}, "name must not be null"),
            ({"name": ""}, "name must not be empty"),
            ({"description": 1}, "description must be a string"),
            ({"status": None}, "status must not be null"),
            ({"status": 1}, "status must be a string"),
        ],
    )
    def test_bad_input_is_400(
        self, client: FlaskClient, alice: Person, changes: dict[str, Any], sentence: str
    ) -> None:
        agent_id = make_agent(client, alice)
        assert detail(patch(client, alice, agent_id, **changes), 400) == sentence

    @pytest.mark.parametrize("status", ["building", "failed", "queued", "ARCHIVED", "", "x"])
    def test_client_cannot_set_what_the_server_derives(
        self, client: FlaskClient, alice: Person, status: str
    ) -> None:
        agent_id = make_agent(client, alice)
        response = patch(client, alice, agent_id, status=status, name="untouched")
        assert "the server sets every other" in detail(response, 400)
        agent = body_of(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key))
        assert (agent["status"], agent["name"]) == ("draft", "my-agent")

    @pytest.mark.parametrize("wish", ["draft", "ready"])
    @pytest.mark.parametrize(
        ("versions", "expected"),
        [
            ([], "draft"),
            (["ready"], "ready"),
            (["failed"], "failed"),
            (["queued"], "building"),
            (["building"], "building"),
            (["ready", "failed"], "failed"),
            (["failed", "ready"], "ready"),
        ],
    )
    def test_end_of_archiving_brings_back_the_true_status(
        self, client: FlaskClient, alice: Person, wish: str, versions: list[str], expected: str
    ) -> None:
        agent_id = make_agent(client, alice)
        for status in versions:
            add_version(agent_id, status)
        assert body_of(patch(client, alice, agent_id, status="archived"))["status"] == "archived"
        answer = body_of(patch(client, alice, agent_id, status=wish))["status"]
        # The backend runs: it may have taken up the queued version and found no artifact.
        assert answer == expected or (expected, answer) == ("building", "failed")

    def test_archived_stays_archived_when_renamed(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        body_of(patch(client, alice, agent_id, status="archived"))
        assert body_of(patch(client, alice, agent_id, name="renamed"))["status"] == "archived"

    def test_ready_on_a_draft_changes_nothing(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        assert body_of(patch(client, alice, agent_id, status="ready"))["status"] == "draft"


class TestDelete:
    def test_rows_and_files_go(self, client: FlaskClient, alice: Person, backend: Backend) -> None:
        agent_id = make_agent(client, alice)
        path = body_of(upload(client, alice, agent_id), 201)["tarball_path"]
        add_execution(alice, add_version(agent_id, "ready"))
        response = client.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key)
        assert (response.status_code, response.data) == (204, b"")
        for model in (AgentVersion, Execution):
            assert model.select().where(model.agent == agent_id).count() == 0
        assert path not in files_under(backend.settings.storage_path)
        detail(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key), 404)
        detail(client.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key), 404)

    def test_running_executions_are_stopped_once_the_rows_are_gone(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        agent_id = make_agent(client, alice)
        add_execution(alice, add_version(agent_id, "ready"), status="running")
        seen: list[tuple[int, bool]] = []

        def stop(stopped_id: int) -> None:
            row_is_there = Agent.select().where(Agent.id == agent_id).exists()
            seen.append((stopped_id, row_is_there))

        monkeypatch.setattr(backend.executor, "kill_agent", stop)
        assert client.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key).status_code == 204
        assert seen == [(agent_id, False)]

    def test_files_that_cannot_be_removed_do_not_bring_the_agent_back(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        agent_id = make_agent(client, alice)

        def broken(agent_id: int) -> None:
            raise PermissionError("no")

        monkeypatch.setattr(backend.store, "remove_agent", broken)
        assert client.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key).status_code == 204
        detail(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key), 404)

    def test_history_goes_in_small_batches_and_the_agent_last(
        self,
        client: FlaskClient,
        alice: Person,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What runs ends first, and nothing new comes while the batches are removed."""
        agent_id = make_agent(client, alice)
        version = add_version(agent_id, "ready")
        for _ in range(3):
            add_execution(alice, version)
        add_execution(alice, version, status="running")
        other = add_execution(alice, add_version(make_agent(client, alice), "ready"))
        seen: list[tuple[str, int, str]] = []

        def note(event: str) -> None:
            count = Execution.select().where(Execution.agent == agent_id).count()
            agent = Agent.get_or_none(Agent.id == agent_id)
            seen.append((event, count, agent.status if agent else "gone"))

        def delete_one(ids: list[int]) -> list[int]:
            note("batch")
            return delete_some(ids[:1])

        delete_some = retention._delete_some
        monkeypatch.setattr(retention, "_delete_some", delete_one)
        monkeypatch.setattr(backend.executor, "kill_agent", lambda one: note(f"kill {one}"))
        assert client.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key).status_code == 204
        assert seen == [
            (f"kill {agent_id}", 3, "archived"),
            ("batch", 3, "archived"),
            ("batch", 2, "archived"),
            ("batch", 1, "archived"),
            (f"kill {agent_id}", 0, "gone"),
        ]
        assert Agent.get_or_none(Agent.id == agent_id) is None
        mine = Execution.select().where(Execution.user == alice.id)
        assert [row.id for row in mine] == [other.id]

    def test_what_an_idempotency_key_stands_for_goes_too(
        self, client: FlaskClient, alice: Person, echo: int
    ) -> None:
        path = f"/api/v1/runtime/{echo}/execute"
        headers = {**alice.by_key, "Idempotency-Key": "one"}
        row = body_of(client.post(path, json={"payload": {}}, headers=headers), 201)
        assert remove_history(echo) == 1
        assert IdempotencyKey.select().where(IdempotencyKey.execution == row["id"]).count() == 0
        assert Agent.get_by_id(echo).id == echo

    def test_that_was_cut_off_can_be_asked_for_again(
        self,
        client: FlaskClient,
        alice: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        agent_id = make_agent(client, alice)
        add_execution(alice, add_version(agent_id, "ready"))
        address = f"{AGENTS}/{agent_id}"
        with monkeypatch.context() as patched:

            def locked(_agent_id: int) -> int:
                raise OperationalError("database is locked")

            patched.setattr(agents, "remove_history", locked)
            assert client.delete(address, headers=alice.by_key).status_code == 503
        assert body_of(client.get(address, headers=alice.by_key))["status"] == "archived"
        assert client.delete(address, headers=alice.by_key).status_code == 204
        detail(client.get(address, headers=alice.by_key), 404)

    def test_a_stranger_cannot_begin_one(
        self, client: FlaskClient, alice: Person, bob: Person
    ) -> None:
        agent_id = make_agent(client, alice)
        add_execution(alice, add_version(agent_id, "ready"))
        detail(client.delete(f"{AGENTS}/{agent_id}", headers=bob.by_key), 404)
        assert Execution.select().where(Execution.agent == agent_id).count() == 1
        assert Agent.get_by_id(agent_id).status != "archived"

    def test_of_two_at_once_one_wins(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        statuses: list[int] = []

        def delete() -> None:
            own = client.application.test_client()
            statuses.append(own.delete(f"{AGENTS}/{agent_id}", headers=alice.by_key).status_code)

        threads = [threading.Thread(target=delete) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(statuses) == [204, 404, 404, 404]


class TestVersions:
    def test_listed_newest_first(self, client: FlaskClient, alice: Person) -> None:
        agent_id = make_agent(client, alice)
        old = add_version(agent_id, "ready", entrypoint="main:handle", config="name: x\n")
        new = add_version(agent_id, "failed", build_log="it broke", concurrency=3)
        listed = body_of(client.get(f"{AGENTS}/{agent_id}/versions", headers=alice.by_key))
        assert [row["id"] for row in listed] == [new.id, old.id]
        assert [row["version"] for row in listed] == ["v2", "v1"]
        assert list(listed[0]) == VERSION_KEYS
        one = body_of(client.get(f"{AGENTS}/{agent_id}/versions/{old.id}", headers=alice.by_key))
        assert one == listed[1]
        assert (one["entrypoint"], one["config"]) == ("main:handle", "name: x\n")
        assert (one["limits"], one["subprocess"]) == ({}, False)  # built before it could be said
        assert listed[0]["limits"] is None
        assert (listed[0]["concurrency"], one["concurrency"]) == (3, None)
        windowed = client.get(f"{AGENTS}/{agent_id}/versions?skip=1&limit=1", headers=alice.by_key)
        assert [row["id"] for row in body_of(windowed)] == [old.id]

    def test_version_of_another_agent_is_404(self, client: FlaskClient, alice: Person) -> None:
        first, second = make_agent(client, alice), make_agent(client, alice)
        version = add_version(first, "ready")
        response = client.get(f"{AGENTS}/{second}/versions/{version.id}", headers=alice.by_key)
        assert detail(response, 404) == "Version not found"


def test_status_of_an_agent_follows_an_upload(client: FlaskClient, alice: Person) -> None:
    agent_id = make_agent(client, alice)
    set_agent_status(agent_id, "failed")
    body_of(upload(client, alice, agent_id), 201)
    agent = body_of(client.get(f"{AGENTS}/{agent_id}", headers=alice.by_key))
    assert agent["status"] in ("building", "ready")
