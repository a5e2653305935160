"""JSON bodies and query strings are read strictly, at every address alike."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from anymind_lite.backend import Backend
from tests.api.conftest import Person, body_of, detail, make_agent

# Every address that takes a JSON body, with a body that is in order.
ADDRESSES = [
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/api-keys"),
    ("POST", "/api/v1/agents"),
    ("PATCH", "/api/v1/agents/{agent_id}"),
    ("POST", "/api/v1/runtime/{agent_id}/execute"),
]

BAD_BODIES = [
    (b"", "The body is empty; send a JSON object"),
    (b" \n ", "The body is empty; send a JSON object"),
    (b"[]", "The body must be a JSON object"),
    (b"null", "The body must be a JSON object"),
    (b'"text"', "The body must be a JSON object"),
    (b"1", "The body must be a JSON object"),
    (b"{", "at line 1 column 2"),
    (b'{"name": "a",}', "at line 1 column"),
    (b"{'name': 'a'}", "at line 1 column 2"),
    (b'{\n  "name": a\n}', "at line 2 column 11"),
    (b'{"name": "a"} x', "Extra data"),
    (b"\xef\xbb\xbf{}", "line 1 column 1"),
    (b'{"name": "\xff"}', "it is not UTF-8 text"),
    (b'{"name": "\xed\xa0\x80"}', "it is not UTF-8 text"),
    ('{"name": "a"}'.encode("utf-16"), "it is not UTF-8 text"),
    (b'{"name": "a\nb"}', "Invalid control character"),
    (b'{"name": NaN}', "NaN is not a JSON number"),
    (b'{"payload": {"x": Infinity}}', "Infinity is not a JSON number"),
    (b'{"payload": {"x": [-Infinity]}}', "-Infinity is not a JSON number"),
    (b'{"payload": {"x": 1e999}}', "a number is too large"),
    (b'{"payload": {"x": -1e999}}', "a number is too large"),
    (b'{"payload": {"x": ' + b"9" * 5000 + b"}}", "a number has too many digits"),
    (b'{"name": "\\ud800"}', "half of a surrogate pair"),
    (b'{"payload": {"\\udfff": 1}}', "half of a surrogate pair"),
    (b'{"payload": ' + b"[" * 101 + b"]" * 101 + b"}", "nested more than 100 levels deep"),
    (b'{"payload": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", "nested more than 100"),
    (b"[" * 60000, "nested more than 100 levels deep"),
    (b'{"a":' * 10000, "nested more than 100 levels deep"),
]


@pytest.fixture
def send(client: FlaskClient, alice: Person) -> Callable[..., Any]:
    agent_id = make_agent(client, alice)

    def send(method: str, path: str, body: bytes, content_type: str = "application/json") -> Any:
        return client.open(
            path.format(agent_id=agent_id),
            method=method,
            data=body,
            content_type=content_type,
            headers=alice.bearer,
        )

    return send


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_bad_json_is_400_with_the_reason(send: Callable[..., Any], method: str, path: str) -> None:
    for body, sentence in BAD_BODIES:
        assert sentence in detail(send(method, path, body), 400), body[:60]


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_other_content_types_are_400_and_name_the_fix(
    send: Callable[..., Any], method: str, path: str
) -> None:
    fix = "Send the body as JSON with the header Content-Type: application/json"
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "application/xml"):
        assert detail(send(method, path, b'{"name": "a"}', content_type), 400) == fix


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_body_over_the_limit_is_413(
    send: Callable[..., Any], backend: Backend, method: str, path: str
) -> None:
    body = b'{"name": "' + b"a" * backend.settings.payload_max_bytes + b'"}'
    assert "larger than 65536 bytes" in detail(send(method, path, body), 413)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "application/vnd.anymind+json"],
)
def test_kinds_of_json_are_taken(send: Callable[..., Any], content_type: str) -> None:
    body_of(send("POST", "/api/v1/agents", b'{"name": "a"}', content_type), 201)


def test_what_json_allows_is_taken(send: Callable[..., Any]) -> None:
    body = '{"name": "first", "name": "last", "description": "\\ud83d\\ude00 é \\u0000"}'
    agent = body_of(send("POST", "/api/v1/agents", body.encode()), 201)
    assert (agent["name"], agent["description"]) == ("last", "😀 é \0")


def test_nobody_unknown_gets_his_body_read(client: FlaskClient) -> None:
    for method, path in ADDRESSES[2:]:
        response = client.open(path.format(agent_id=1), method=method, data=b"{")
        detail(response, 401)


LISTS = [
    "/api/v1/agents",
    "/api/v1/agents/{agent_id}/versions",
    "/api/v1/runtime/executions",
    "/api/v1/logs/{agent_id}",
]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("skip=-1", "skip must be a whole number from 0 to 9223372036854775807"),
        ("skip=9223372036854775808", "skip must be a whole number from 0"),
        ("skip=" + "9" * 5000, "skip must be a whole number from 0"),
        ("skip=x", "skip must be a whole number from 0"),
        ("skip=", "skip must be a whole number from 0"),
        ("skip=1.0", "skip must be a whole number from 0"),
        ("skip=1e3", "skip must be a whole number from 0"),
        ("skip=1_0", "skip must be a whole number from 0"),
        ("skip=%201", "skip must be a whole number from 0"),
        ("skip=%2B1", "skip must be a whole number from 0"),
        ("skip=1%0A", "skip must be a whole number from 0"),
        ("skip=%D9%A3", "skip must be a whole number from 0"),
        ("skip=%00", "skip must be a whole number from 0"),
        ("skip=%FF", "skip must be a whole number from 0"),
        ("limit=0", "limit must be a whole number from 1 to 1000"),
        ("limit=1001", "limit must be a whole number from 1 to 1000"),
        ("limit=-5", "limit must be a whole number from 1 to 1000"),
        ("limit=null", "limit must be a whole number from 1 to 1000"),
        ("skip=x&limit=0", "limit must be a whole number from 1 to 1000"),
    ],
)
def test_bad_window_is_400(
    client: FlaskClient, alice: Person, path: str, query: str, sentence: str
) -> None:
    address = path.format(agent_id=make_agent(client, alice))
    assert sentence in detail(client.get(f"{address}?{query}", headers=alice.by_key), 400)


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "query", ["skip=0", "limit=1", "limit=1000", "skip=9223372036854775807&limit=1000", "skip=007"]
)
def test_window_at_its_bounds_is_taken(
    client: FlaskClient, alice: Person, path: str, query: str
) -> None:
    address = path.format(agent_id=make_agent(client, alice))
    assert isinstance(body_of(client.get(f"{address}?{query}", headers=alice.by_key)), list)
