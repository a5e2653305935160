"""Versions that are kept imported: what a client sees of it."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from anymind_lite.models import AgentVersion
from anymind_lite.services.code import template_name
from tests.api.conftest import RUNTIME, Person, body_of, deploy, upload
from tests.live_server import pack_agent
from tests.waiting import wait_for

COUNTS = """
import os

print("imported")
CALLS = []

def handle(payload):
    CALLS.append(payload)
    open("left", "w").close()
    os.environ["LEFT"] = "x"
    return {"calls": len(CALLS)}
"""
THREADED = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()

def handle(payload):
    return {"threads": threading.active_count()}
"""


@pytest.fixture(autouse=True)
def _templates(backend: Backend) -> None:
    if not backend.sandbox.templates.is_serving:
        pytest.skip("versions are kept imported in tier A alone")


def execute(client: FlaskClient, person: Person, agent_id: int) -> Any:
    url = f"{RUNTIME}/{agent_id}/execute"
    return body_of(client.post(url, json={"payload": {}}, headers=person.by_key), 201)


def newest_version(agent_id: int) -> Any:
    rows = AgentVersion.select().where(AgentVersion.agent == agent_id)
    return rows.order_by(AgentVersion.id.desc()).get()


def stands(backend: Backend, agent_id: int, version_id: int) -> bool:
    name = template_name(agent_id, version_id)
    return backend.sandbox.templates.number_of(name) is not None


def test_first_run_after_a_build_is_warm_and_every_run_is_the_first(
    client: FlaskClient, alice: Person
) -> None:
    agent_id = deploy(client, alice, COUNTS)
    for _ in range(3):
        row = execute(client, alice, agent_id)
        assert (row["warm"], row["output_data"], row["logs"]) == (True, {"calls": 1}, None)
        assert row["queue_ms"] == 0
        assert 0 <= row["start_ms"] <= row["duration_ms"] + 1
        assert 0 < row["wall_ms"] <= row["duration_ms"] + 1
    assert "| imported" in newest_version(agent_id).build_log


def test_version_that_cannot_be_cloned_says_so_and_runs_all_the_same(
    client: FlaskClient, alice: Person
) -> None:
    agent_id = deploy(client, alice, THREADED)
    log = newest_version(agent_id).build_log
    assert "Every run will import it again: it started a thread" in log
    assert "Build completed successfully" in log
    for _ in range(2):
        row = execute(client, alice, agent_id)
        assert (row["warm"], row["output_data"]) == (False, {"threads": 2})


def test_run_that_finds_no_template_has_one_made(
    client: FlaskClient, alice: Person, backend: Backend, echo: int
) -> None:
    version_id = newest_version(echo).id
    backend.sandbox.templates.drop(template_name(echo, version_id))
    row = execute(client, alice, echo)
    assert (row["status"], row["warm"]) == ("completed", False)
    wait_for(lambda: stands(backend, echo, version_id), "the template")
    assert execute(client, alice, echo)["warm"] is True


def test_new_version_ends_the_template_of_the_one_before(
    client: FlaskClient, alice: Person, backend: Backend, echo: int
) -> None:
    before = newest_version(echo).id
    archive = pack_agent("def handle(payload):\n    return {'new': True}\n")
    body_of(upload(client, alice, echo, archive), 201)
    wait_for(lambda: not stands(backend, echo, before), "the end of the old template")
    wait_for(lambda: newest_version(echo).status == "ready", "the build")
    row = execute(client, alice, echo)
    assert (row["warm"], row["output_data"]) == (True, {"new": True})


def test_deleted_agent_leaves_no_template(
    client: FlaskClient, alice: Person, backend: Backend, echo: int
) -> None:
    version_id = newest_version(echo).id
    assert stands(backend, echo, version_id)
    assert client.delete(f"/api/v1/agents/{echo}", headers=alice.by_key).status_code == 204
    assert not stands(backend, echo, version_id)


def test_build_that_fails_leaves_no_template(
    client: FlaskClient, alice: Person, backend: Backend, echo: int
) -> None:
    before = newest_version(echo).id
    archive = pack_agent("handle = 3\n")
    body_of(upload(client, alice, echo, archive), 201)
    wait_for(lambda: newest_version(echo).status == "failed", "the build")
    assert not stands(backend, echo, newest_version(echo).id)
    assert stands(backend, echo, before)
    assert execute(client, alice, echo)["warm"] is True
