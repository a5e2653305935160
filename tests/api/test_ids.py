"""Ids in addresses: what is no id, and what is somebody else's, is not there."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.api.conftest import (
    Person,
    add_execution,
    add_version,
    body_of,
    detail,
    make_agent,
    new_person,
)

ADDRESSES: list[tuple[str, str, object]] = [
    ("GET", "/api/v1/agents/{agent}", None),
    ("PATCH", "/api/v1/agents/{agent}", {"name": "stolen"}),
    ("DELETE", "/api/v1/agents/{agent}", None),
    ("GET", "/api/v1/agents/{agent}/versions", None),
    ("GET", "/api/v1/agents/{agent}/versions/{version}", None),
    ("POST", "/api/v1/uploads/agent/{agent}", None),
    ("POST", "/api/v1/runtime/{agent}/execute", {"payload": {}}),
    ("GET", "/api/v1/runtime/executions/{execution}", None),
    ("POST", "/api/v1/runtime/executions/{execution}/cancel", None),
    ("GET", "/api/v1/logs/{agent}", None),
    ("GET", "/api/v1/logs/executions/{execution}/logs", None),
    ("DELETE", "/api/v1/api-keys/{key}", None),
]

NO_IDS = [
    "0",
    "999999999",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 30,
    "9" * 5000,
    "-1",
    "1.0",
    "1e3",
    "abc",
    "%D9%A3",
    "%C2%B2",
    "1%00",
    "1%0A",
    "%201",
    "+1",
    "0x1",
    "null",
    "%FF",
]


@pytest.fixture
def ids(client: FlaskClient, bob: Person) -> Callable[..., dict[str, object]]:
    agent_id = make_agent(client, bob, "bobs")
    version = add_version(agent_id, "ready")
    execution = add_execution(bob, version)
    of_bob = {
        "agent": agent_id,
        "version": version.id,
        "execution": execution.id,
        "key": bob.key_id,
    }

    def make(replacement: str | None = None) -> dict[str, object]:
        return of_bob if replacement is None else dict.fromkeys(of_bob, replacement)

    return make


@pytest.mark.parametrize(("method", "path", "body"), ADDRESSES)
def test_other_peoples_things_are_404_and_unchanged(
    client: FlaskClient,
    alice: Person,
    bob: Person,
    ids: Callable[..., dict[str, object]],
    method: str,
    path: str,
    body: object,
) -> None:
    address = path.format(**ids())
    stranger = client.open(address, method=method, json=body, headers=alice.bearer)
    nobodys = client.open(
        path.format(**ids("999999999")), method=method, json=body, headers=alice.bearer
    )
    # The same words: nothing tells that it exists.
    assert detail(stranger, 404) == detail(nobodys, 404)
    agent = body_of(client.get(f"/api/v1/agents/{ids()['agent']}", headers=bob.by_key))
    assert agent["name"] == "bobs"
    executions = body_of(client.get("/api/v1/runtime/executions", headers=bob.by_key))
    assert [row["status"] for row in executions] == ["completed"]


@pytest.fixture(scope="module")
def stranger(app: Flask) -> Person:
    """Somebody who owns nothing, and whom a 404 leaves as it found them."""
    return new_person(app.test_client())


@pytest.mark.parametrize("value", NO_IDS)
@pytest.mark.parametrize(("method", "path", "body"), ADDRESSES)
def test_what_is_no_id_is_404(
    client: FlaskClient, stranger: Person, method: str, path: str, body: object, value: str
) -> None:
    address = path.format(agent=value, version=value, execution=value, key=value)
    detail(client.open(address, method=method, json=body, headers=stranger.bearer), 404)


def test_lists_hold_only_ones_own(
    client: FlaskClient, alice: Person, ids: Callable[..., dict[str, object]]
) -> None:
    for path in ("/api/v1/agents", "/api/v1/runtime/executions"):
        assert body_of(client.get(path, headers=alice.by_key)) == []


def test_trailing_slash_is_the_same_address(client: FlaskClient, alice: Person) -> None:
    agent_id = make_agent(client, alice)
    for path in ("/api/v1/agents/", f"/api/v1/agents/{agent_id}/"):
        body_of(client.get(path, headers=alice.by_key))
