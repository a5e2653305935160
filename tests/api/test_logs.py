"""Logs of agents and executions, as the API shows them."""

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Person, add_execution, add_version, body_of, make_agent

LOGS = "/api/v1/logs"
ENTRY_KEYS = ["timestamp", "level", "message", "source", "metadata"]


def test_agent_logs_are_newest_first(client: FlaskClient, alice: Person) -> None:
    agent_id = make_agent(client, alice)
    assert body_of(client.get(f"{LOGS}/{agent_id}", headers=alice.by_key)) == []
    version = add_version(agent_id, "ready")
    execution = add_execution(alice, version)
    entries = body_of(client.get(f"{LOGS}/{agent_id}", headers=alice.by_key))
    assert [list(entry) for entry in entries] == [ENTRY_KEYS] * 2
    assert sorted(entry["source"] for entry in entries) == ["build", "runtime"]
    assert all(entry["timestamp"].endswith("Z") for entry in entries)
    by_source = {entry["source"]: entry for entry in entries}
    assert by_source["build"]["metadata"] == {"version_id": version.id, "status": "ready"}
    assert by_source["runtime"]["metadata"] == {
        "execution_id": execution.id,
        "status": "completed",
    }
    response = client.get(f"{LOGS}/{agent_id}?skip=1&limit=1", headers=alice.by_key)
    assert body_of(response) == entries[1:]


def test_execution_logs_are_entries(client: FlaskClient, alice: Person) -> None:
    version = add_version(make_agent(client, alice), "ready")
    row = add_execution(alice, version, logs="first\nsecond\n")
    path = f"{LOGS}/executions/{row.id}/logs"
    entries = body_of(client.get(path, headers=alice.by_key))
    assert all(list(entry) == ENTRY_KEYS for entry in entries)
    messages = [entry["message"] for entry in entries]
    assert messages.index("second") < messages.index("first")
    response = client.get(f"{path}?limit=1", headers=alice.by_key)
    assert body_of(response) == entries[:1]


@pytest.mark.parametrize("skip", [100, 2**63 - 1001, 2**63 - 1])
def test_execution_logs_end_however_far_one_skips(
    client: FlaskClient, alice: Person, skip: int
) -> None:
    row = add_execution(alice, add_version(make_agent(client, alice), "ready"))
    path = f"{LOGS}/executions/{row.id}/logs?skip={skip}&limit=1000"
    assert body_of(client.get(path, headers=alice.by_key)) == []
