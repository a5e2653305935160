"""The API contract: every documented example in order, with its status, keys and types."""

import re
from typing import Any

import pytest

from tests.live_server import Answer, Api, LiveServer, form_file, pack_agent

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class At:
    """Stands for an instant in ISO 8601 with its zone."""


USER = {
    "id": 1,
    "email": "user@example.com",
    "username": "username",
    "full_name": "Full Name",
    "is_active": True,
}
KEY = {"id": 1, "key_prefix": "anymind_abc1", "name": "My CLI Key", "created_at": At}
AGENT = {
    "id": 1,
    "name": "my-agent",
    "description": "My AI agent",
    "user_id": 1,
    "status": "draft",
    "current_version_id": None,
    "created_at": At,
    "updated_at": At,
}
VERSION = {
    "id": 1,
    "agent_id": 1,
    "version": "v1",
    "status": "queued",
    "build_log": None,
    "tarball_path": "agents/1/artifacts/agent_1_artifact.tar.gz",
    "entrypoint": None,
    "config": None,
    "created_at": At,
    "updated_at": At,
    # Beyond the contract.
    "limits": None,
    "subprocess": False,
    "concurrency": None,
}
EXECUTION = {
    "id": 1,
    "agent_version_id": 5,
    "user_id": 1,
    "status": "completed",
    "input_data": {"input": "Hello, world!"},
    "output_data": {"result": "Response from agent"},
    "error_message": None,
    "logs": None,
    "created_at": At,
    "updated_at": At,
    # Beyond the contract.
    "error_code": None,
    "tier": "A",
    "layers": [],
    "started_at": At,
    "finished_at": At,
    "duration_ms": 12,
    "cpu_ms": 9,
    "max_rss_kb": 14200,
    "warm": True,
    "queue_ms": 0.0,
    "start_ms": 1.2,
    "wall_ms": 10.8,
}
BUILD_LOG = {
    "timestamp": At,
    "level": "INFO",
    "message": "Build completed successfully",
    "source": "build",
    "metadata": {"version_id": 1, "status": "ready"},
}
RUN_LOG = {
    "timestamp": At,
    "level": "INFO",
    "message": "Execution 1 completed successfully",
    "source": "runtime",
    "metadata": {"execution_id": 1, "status": "completed"},
}

AGENT_CODE = "def handle(payload):\n    return {'result': 'Response from agent'}\n"


def check(value: Any, example: Any, where: str = "answer") -> None:
    """Hold a value against a documented example: the same keys in the same order, the same types.

    Texts of a closed list and booleans are compared themselves by the walk where they matter.
    """
    if example is At:
        assert isinstance(value, str), where
        assert INSTANT.fullmatch(value), f"{where}: {value}"
    elif isinstance(example, dict):
        assert isinstance(value, dict), where
        assert list(value) == list(example), where
        for key, inner in example.items():
            check(value[key], inner, f"{where}.{key}")
    else:
        assert type(value) is type(example), f"{where}: {value!r}"


def expect(answer: Answer, status: int, example: Any = None) -> Any:
    assert answer.status == status, answer.body
    if example is None:
        assert answer.body == b""
        return None
    assert answer.headers["Content-Type"] == "application/json"
    check(answer.json, example)
    return answer.json


def test_every_documented_example_in_order(server: LiveServer) -> None:
    nobody = server.api
    v1 = "/api/v1"
    assert expect(nobody.call("GET", "/health"), 200, {"status": "healthy"})["status"] == "healthy"

    # Authentication
    name = "contract-walker"
    registration = {
        "email": f"{name}@example.com",
        "username": name,
        "password": "password",
        "full_name": "Full Name",
    }
    user = expect(nobody.call("POST", f"{v1}/auth/register", registration), 201, USER)
    credentials = {"username": name, "password": "password"}
    token = {"access_token": "eyJ0eXAiOiJKV1QiLCJhbGc...", "token_type": "bearer"}
    login = expect(nobody.call("POST", f"{v1}/auth/login", credentials), 200, token)
    assert login["token_type"] == "bearer"
    by_token = nobody.with_headers(Authorization=f"Bearer {login['access_token']}")
    assert expect(by_token.call("GET", f"{v1}/auth/me"), 200, USER) == user

    # API keys
    made = by_token.call("POST", f"{v1}/api-keys", {"name": "My CLI Key"})
    with_key = {"id": 1, "key": "anymind_abc123...", **{k: KEY[k] for k in list(KEY)[1:]}}
    key = expect(made, 201, with_key)
    assert key["key"].startswith(key["key_prefix"])
    assert len(key["key_prefix"]) == 12
    by_key = nobody.with_headers(X_API_Key=key["key"])
    assert by_key.call("GET", f"{v1}/agents").status == 200
    listed = by_token.call("GET", f"{v1}/api-keys").json
    check(
        listed[0],
        {
            "id": 1,
            "key_prefix": "anymind_abc1",
            "name": "My CLI Key",
            "is_active": True,
            "last_used_at": At,
            "created_at": At,
        },
    )

    # Agents
    body = {"name": "my-agent", "description": "My AI agent"}
    agent = expect(by_key.call("POST", f"{v1}/agents", body), 201, AGENT)
    assert agent["status"] == "draft"
    path = f"{v1}/agents/{agent['id']}"
    assert by_key.call("GET", f"{v1}/agents?skip=0&limit=100").json == [agent]
    assert expect(by_key.call("GET", path), 200, AGENT) == agent
    changes = {"name": "updated-name", "description": "Updated description", "status": "archived"}
    changed = expect(by_key.call("PATCH", path, changes), 200, AGENT)
    assert {name: changed[name] for name in changes} == changes
    unarchived = expect(by_key.call("PATCH", path, {"status": "draft"}), 200, AGENT)
    assert unarchived["status"] == "draft"

    # Upload, build, download
    archive = pack_agent(AGENT_CODE)
    content_type, form = form_file(archive, "agent.tar.gz")
    upload = by_key.call(
        "POST",
        f"{v1}/uploads/agent/{agent['id']}",
        body=form,
        headers={"Content-Type": content_type},
    )
    version = expect(upload, 201, VERSION)
    assert (version["version"], version["status"]) == ("v1", "queued")
    assert by_key.call("GET", path).json["status"] in ("building", "ready")
    built = by_key.wait_for_build(agent["id"], version["id"])
    check(built, {**VERSION, "build_log": "", "entrypoint": "", "config": "", "limits": {}})
    assert (built["status"], built["entrypoint"]) == ("ready", "main:handle")
    ready = by_key.call("GET", path).json
    assert (ready["status"], ready["current_version_id"]) == ("ready", version["id"])
    download = by_key.call("GET", f"{v1}/uploads/{version['tarball_path']}")
    assert (download.status, download.body) == (200, archive)

    # Execution
    run = by_key.execute(agent["id"], {"input": "Hello, world!"})
    execution = expect(run, 201, EXECUTION)
    assert execution["status"] == "completed"
    assert execution["output_data"] == {"result": "Response from agent"}
    query = f"agent_version_id={version['id']}&skip=0&limit=100"
    assert by_key.call("GET", f"{v1}/runtime/executions?{query}").json == [execution]
    one = f"{v1}/runtime/executions/{execution['id']}"
    assert expect(by_key.call("GET", one), 200, EXECUTION) == execution
    assert expect(by_key.call("POST", f"{one}/cancel"), 200, EXECUTION) == execution

    # Logs
    logs = by_key.call("GET", f"{v1}/logs/{agent['id']}").json
    check(logs[0], RUN_LOG)
    check(logs[1], BUILD_LOG)
    assert logs[1]["message"] == "Build completed successfully"
    assert logs[0]["message"] == f"Execution {execution['id']} completed successfully"
    for entry in by_key.call("GET", f"{v1}/logs/executions/{execution['id']}/logs").json:
        check(entry, {**RUN_LOG, "metadata": entry["metadata"]})

    # The documented errors
    wrong_key = nobody.with_headers(X_API_Key="anymind_nonsense")
    assert wrong_key.call("GET", path).json == {"detail": "Invalid API key"}
    missing = by_key.call("GET", f"{v1}/agents/999999")
    assert (missing.status, missing.json) == (404, {"detail": "Agent not found"})
    refused = by_key.upload(agent["id"], archive, filename="agent.zip")
    assert (refused.status, refused.json) == (
        400,
        {"detail": "File must be a .tar.gz archive"},
    )

    # The ends
    assert expect(by_token.call("DELETE", f"{v1}/api-keys/{key['id']}"), 204) is None
    assert by_key.call("GET", path).status == 401
    assert expect(by_token.call("DELETE", path), 204) is None
    assert by_token.call("GET", path).status == 404


@pytest.mark.parametrize("header", ["token", "key"])
def test_the_main_job_works_with_either_credential_alone(server: LiveServer, header: str) -> None:
    """Every endpoint but those that need a person signed in takes both."""
    by_key = server.api.new_user(f"only-{header}")
    who: Api = by_key
    if header == "token":
        login = {"username": f"only-{header}", "password": "correct horse"}
        token = server.api.call("POST", "/api/v1/auth/login", login).json["access_token"]
        who = server.api.with_headers(Authorization=f"Bearer {token}")
    agent_id = who.deploy(pack_agent(AGENT_CODE))
    execution = who.execute(agent_id, {"n": 1})
    assert execution.json["status"] == "completed"
    execution_id = execution.json["id"]
    for path in (
        f"/api/v1/runtime/executions/{execution_id}",
        f"/api/v1/logs/executions/{execution_id}/logs",
        f"/api/v1/logs/{agent_id}",
        f"/api/v1/agents/{agent_id}/versions",
    ):
        assert who.call("GET", path).status == 200
    assert who.call("DELETE", f"/api/v1/agents/{agent_id}").status == 204
