"""Browsers on other origins: only the configured ones, and only what the API needs."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.api.conftest import Person, body_of, detail
from tests.api.test_errors import address_of

ALLOWED = ["http://localhost:3000", "https://app.example.com", "http://[::1]:3000"]
FOREIGN = [
    "http://localhost:3001",
    "https://localhost:3000",
    "http://localhost:30000",
    "http://localhost:3000.evil.example",
    "http://evil.example",
    "https://appXexample.com",
    "https://sub.app.example.com",
    "null",
    "",
]


def preflight(client: FlaskClient, path: str, origin: str, method: str, headers: str = "") -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return client.options(path, headers=asked)


@pytest.mark.parametrize("origin", ALLOWED)
def test_preflight_of_an_allowed_origin(client: FlaskClient, origin: str) -> None:
    response = preflight(
        client, "/api/v1/agents", origin, "POST", "authorization, content-type, x-api-key"
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Access-Control-Allow-Methods"] == "DELETE, GET, PATCH, POST"
    allowed = response.headers["Access-Control-Allow-Headers"].lower()
    assert allowed == "authorization, content-type, x-api-key"
    assert response.headers["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in response.headers["Vary"]


def test_preflights_of_every_operation_reach_no_authentication(
    app: Flask, client: FlaskClient
) -> None:
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            response = preflight(
                client, address_of(rule), ALLOWED[0], method, "authorization,content-type"
            )
            assert response.status_code == 200
            assert method in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("header", ["Authorization", "Content-Type", "X-API-Key"])
def test_request_headers_of_the_clients_are_allowed(client: FlaskClient, header: str) -> None:
    response = preflight(client, "/api/v1/agents", ALLOWED[0], "GET", header)
    assert response.headers["Access-Control-Allow-Headers"] == header


def test_other_request_headers_are_not_allowed(client: FlaskClient) -> None:
    response = preflight(client, "/api/v1/agents", ALLOWED[0], "GET", "X-Evil, Cookie")
    assert "Access-Control-Allow-Headers" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_origin_gets_nothing(client: FlaskClient, alice: Person, origin: str) -> None:
    answers = [
        preflight(client, "/api/v1/agents", origin, "POST", "authorization"),
        client.get("/api/v1/agents", headers={**alice.by_key, "Origin": origin}),
    ]
    for response in answers:
        assert not [name for name in response.headers if name[0].startswith("Access-Control")]


def test_errors_can_be_read_by_an_allowed_origin(client: FlaskClient) -> None:
    for path, status in (("/api/v1/agents", 401), ("/nothing", 404)):
        response = client.get(path, headers={"Origin": ALLOWED[0]})
        detail(response, status)
        assert response.headers["Access-Control-Allow-Origin"] == ALLOWED[0]
        assert response.headers["Access-Control-Expose-Headers"] == ", ".join(
            ["Idempotent-Replayed", "Location", "Preference-Applied", "Retry-After"]
        )


def test_without_an_origin_nothing_is_said(client: FlaskClient) -> None:
    assert "Access-Control-Allow-Origin" not in client.get("/health").headers


def test_star_allows_every_origin(client_with: Callable[..., FlaskClient]) -> None:
    client = client_with(cors_origins=("*",))
    response = preflight(client, "/api/v1/agents", "https://any.example", "POST", "authorization")
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_no_origins_means_no_cors(client_with: Callable[..., FlaskClient]) -> None:
    response = preflight(client_with(cors_origins=()), "/api/v1/agents", ALLOWED[0], "POST")
    assert "Access-Control-Allow-Origin" not in response.headers


def test_react_code_of_the_contract_works(client: FlaskClient, alice: Person) -> None:
    """The contract's `authenticatedFetch` sends a content type with GET too."""
    headers = {
        **alice.bearer,
        "Content-Type": "application/json",
        "Origin": "http://localhost:3000",
    }
    assert body_of(client.get("/api/v1/agents", headers=headers)) == []
