"""The OpenAPI document says what the routes do, and the page shows it without help."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from anymind_lite.app import create_app
from anymind_lite.backend import Backend
from anymind_lite.clock import utc_now
from anymind_lite.errors import InvalidInput
from anymind_lite.manifest import LIMIT_KEYS
from anymind_lite.models import Agent, AgentVersion, ApiKey, ErrorCode, Execution, User
from anymind_lite.routes import _schemas as schemas
from anymind_lite.sandbox.in_server.probe import LayerState, SandboxState
from anymind_lite.sandbox.policy import Tier
from anymind_lite.services.logs import LogEntry
from anymind_lite.services.names import checked_name
from anymind_lite.services.readiness import Readiness
from tests.api.conftest import body_of, detail

ERRORS = {"400", "401", "403", "404", "413", "429", "500", "503", "507"}


@pytest.fixture(scope="package")
def document(app: Flask) -> dict[str, Any]:
    return body_of(app.test_client().get("/openapi.json"))  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


def test_document_and_routes_are_the_same(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith("docs.")
    }
    assert {(path, method) for path, method, _ in operations(document)} == routes


def test_document_has_every_operation_of_the_contract(document: dict[str, Any]) -> None:
    contract = {
        "post /api/v1/auth/register",
        "post /api/v1/auth/login",
        "get /api/v1/auth/me",
        "post /api/v1/api-keys",
        "get /api/v1/api-keys",
        "delete /api/v1/api-keys/{api_key_id}",
        "post /api/v1/agents",
        "get /api/v1/agents",
        "get /api/v1/agents/{agent_id}",
        "patch /api/v1/agents/{agent_id}",
        "delete /api/v1/agents/{agent_id}",
        "get /api/v1/agents/{agent_id}/versions",
        "get /api/v1/agents/{agent_id}/versions/{version_id}",
        "post /api/v1/uploads/agent/{agent_id}",
        "get /api/v1/uploads/{filepath}",
        "post /api/v1/runtime/{agent_id}/execute",
        "get /api/v1/runtime/executions",
        "get /api/v1/runtime/executions/{execution_id}",
        "post /api/v1/runtime/executions/{execution_id}/cancel",
        "get /api/v1/logs/{agent_id}",
        "get /api/v1/logs/executions/{execution_id}/logs",
        "get /health",
    }
    additions = {"get /api/v1/system/sandbox", "get /ready"}
    described = {f"{method} {path}" for path, method, _ in operations(document)}
    assert described == contract | additions


def test_document_is_openapi_3_1(document: dict[str, Any], app: Flask) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"] == "Agent Management API"
    assert document["info"]["version"] == "1.0.0"
    assert set(document) <= {"openapi", "info", "paths", "components", "tags"}
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in document["tags"]}
    for path, _, operation in operations(document):
        assert operation["summary"].endswith(".")
        assert set(operation["tags"]) <= tags
        placeholders = set(re.findall(r"{(\w+)}", path))
        described = {p["name"]: p for p in document["paths"][path].get("parameters", [])}
        assert set(described) == placeholders
        assert all(p["required"] and p["description"] for p in described.values())
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert len(good) == (2 if operation["operationId"] == "execute_agent" else 1)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d", status)
            assert "$ref" in response or response["description"]


def test_every_reference_leads_somewhere_and_no_component_is_unused(
    document: dict[str, Any],
) -> None:
    text = json.dumps(document)
    references = set(re.findall(r'"\$ref": "(#/[^"]+)"', text))
    for reference in references:
        target: Any = document
        for key in reference.removeprefix("#/").split("/"):
            target = target[key]
    for kind in ("schemas", "responses"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in references


def test_schemas_are_of_json_schema_2020(document: dict[str, Any]) -> None:
    """In OpenAPI 3.1 `nullable` and a boolean `exclusiveMinimum` are gone."""

    def walk(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    types = {"string", "integer", "number", "boolean", "array", "object", "null"}
    for node in walk(document):
        assert "nullable" not in node
        declared = node.get("type")
        if isinstance(declared, list):
            assert set(declared) <= types
    for schema in document["components"]["schemas"].values():
        assert schema["type"] == "object"
        assert set(schema.get("required", [])) <= set(schema["properties"])


def test_security_of_each_operation(document: dict[str, Any]) -> None:
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for path, method, operation in operations(document):
        security = operation.get("security")
        if path in ("/health", "/ready", "/api/v1/auth/register", "/api/v1/auth/login"):
            assert security is None
        elif path == "/api/v1/auth/me" or path.startswith("/api/v1/api-keys"):
            assert security == [{"Bearer": []}]
        else:
            assert security == [{"ApiKey": []}, {"Bearer": []}], (method, path)


def test_views_keep_their_guards(app: Flask, document: dict[str, Any]) -> None:
    client = app.test_client()
    for path, method, operation in operations(document):
        if "security" in operation:
            address = re.sub(r"{\w+}", "1", path)
            detail(client.open(address, method=method.upper()), 401)


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("post", "/api/v1/auth/register", "201 400 413 429 500 507"),
        ("post", "/api/v1/auth/login", "200 400 401 403 413 429 500 507"),
        ("get", "/api/v1/auth/me", "200 401 403 500"),
        ("delete", "/api/v1/api-keys/{api_key_id}", "204 401 403 404 500 507"),
        ("get", "/api/v1/agents", "200 400 401 403 500"),
        ("patch", "/api/v1/agents/{agent_id}", "200 400 401 403 404 413 500 507"),
        ("post", "/api/v1/uploads/agent/{agent_id}", "201 400 401 403 404 413 500 507"),
        ("get", "/api/v1/uploads/{filepath}", "200 401 403 404 500"),
        (
            "post",
            "/api/v1/runtime/{agent_id}/execute",
            "201 202 400 401 403 404 409 413 429 500 503 507",
        ),
        ("get", "/api/v1/system/sandbox", "200 401 403 500"),
        ("get", "/health", "200"),
    ],
)
def test_statuses_of_operations(
    document: dict[str, Any], method: str, path: str, statuses: str
) -> None:
    responses = document["paths"][path][method]["responses"]
    assert list(responses) == statuses.split()
    for status in set(responses) & ERRORS:
        reference = responses[status]["$ref"]
        described = document["components"]["responses"][reference.rpartition("/")[2]]
        content = described["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Error"}
        assert set(content["example"]) == {"detail"}
        assert ("Retry-After" in described.get("headers", {})) == (status in ("429", "503"))


def test_upload_and_download_are_described(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/uploads/agent/{agent_id}"]["post"]["requestBody"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["file"]
    download = document["paths"]["/api/v1/uploads/{filepath}"]["get"]["responses"]["200"]
    assert set(download["content"]) == {"application/gzip"}


@pytest.mark.parametrize("schema", ["ApiKeyCreateRequest", "AgentCreateRequest"])
@pytest.mark.parametrize(
    "name",
    [
        "a",
        " padded ",
        "Агент №1",
        "👩‍👩‍👧",
        "",
        " ",
        "\u00a0",
        "a\nb",
        "a\n",
        "\0",
        "a\x85",
        "a\u2028b",
    ],
)
def test_documented_pattern_of_names_is_what_is_accepted(
    document: dict[str, Any], schema: str, name: str
) -> None:
    rules = document["components"]["schemas"][schema]["properties"]["name"]
    # In JavaScript, whose patterns these are, `$` is the end, not a line end before it.
    documented = re.search(rules["pattern"].replace("$", r"\Z"), name) is not None
    try:
        accepted = checked_name(name) == name
    except InvalidInput:
        accepted = False
    assert documented == accepted


NOW = utc_now()
ROWS: list[tuple[type[Any], Callable[..., Any], tuple[Any, ...]]] = [
    (schemas.UserSchema, schemas.user_json, (User(id=1),)),
    (schemas.ApiKeySchema, schemas.api_key_json, (ApiKey(id=1, created_at=NOW),)),
    (schemas.ApiKeyCreatedSchema, schemas.created_api_key_json, (ApiKey(created_at=NOW), "k")),
    (schemas.AgentSchema, schemas.agent_json, (Agent(created_at=NOW, updated_at=NOW),)),
    (
        schemas.AgentVersionSchema,
        schemas.agent_version_json,
        (AgentVersion(number=1, created_at=NOW, updated_at=NOW),),
    ),
    (
        schemas.ExecutionSchema,
        lambda row: json.loads("".join(schemas.execution_json(row))),
        (Execution(input_data="{}", created_at=NOW, updated_at=NOW),),
    ),
    (schemas.LogEntrySchema, schemas.log_entry_json, (LogEntry(NOW, "INFO", "m", None, None),)),
    (
        schemas.SandboxSchema,
        SandboxState.to_json,
        (SandboxState(Tier.A, Tier.B, can_run=True, message="m", layers=()),),
    ),
    (
        schemas.LayerSchema,
        lambda layer: SandboxState(
            Tier.A, Tier.B, can_run=True, message="", layers=(layer,)
        ).to_json()["layers"][0],
        (LayerState("rlimits", is_on=True, promise="p"),),
    ),
    (schemas.TokenSchema, schemas.token_json, ("t",)),
    (schemas.ReadinessSchema, schemas.readiness_json, (Readiness({}),)),
]


@pytest.mark.parametrize(("schema", "to_json", "arguments"), ROWS)
def test_answers_have_the_documented_fields(
    schema: type[Any], to_json: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]
) -> None:
    assert list(to_json(*arguments)) == list(schema().fields)
    assert all(field.required for field in schema().fields.values())


def test_closed_lists_are_documented_as_such(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]
    execution = shapes["Execution"]["properties"]
    assert execution["error_code"]["enum"] == [*(code.value for code in ErrorCode), None]
    assert execution["tier"]["enum"] == ["A", "B", "C", None]
    assert shapes["Sandbox"]["properties"]["min_tier"]["enum"] == ["A", "B", "C"]
    assert list(shapes["Limits"]["properties"]) == list(LIMIT_KEYS)


class TestServing:
    def test_document_is_cached_by_its_etag(self, client: FlaskClient) -> None:
        first = client.get("/openapi.json")
        assert first.mimetype == "application/json"
        again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")

    def test_page_and_its_assets_are_served_under_a_strict_policy(
        self, client: FlaskClient
    ) -> None:
        with client.get("/docs") as page:
            assert page.status_code == 200
            assert page.mimetype == "text/html"
            urls = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.get_data(as_text=True))
        assert urls
        for url in [*urls, "/docs"]:
            with client.get(url) as response:
                assert response.status_code == 200, url
                policy = response.headers["Content-Security-Policy"]
                assert "script-src 'self'" in policy
                assert "default-src 'none'" in policy

    @pytest.mark.parametrize(
        "name",
        [
            "nothing.js",
            "../app.py",
            "..%2fapp.py",
            "%2e%2e/app.py",
            "docs.html",
            "vendor",
            "vendor/swagger-ui",
            "vendor/swagger-ui/../../docs.html",
            "/etc/passwd",
            "x%00",
            "",
        ],
    )
    def test_nothing_else_is_served(self, client: FlaskClient, name: str) -> None:
        detail(client.get(f"/docs/assets/{name}"), 404)

    def test_root_says_where_things_are(self, client: FlaskClient) -> None:
        assert body_of(client.get("/")) == {
            "name": "Agent Management API",
            "version": "1.0.0",
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/health",
        }

    def test_health(self, client: FlaskClient) -> None:
        response = client.get("/health")
        assert (response.status_code, response.data) == (200, b'{"status":"healthy"}\n')


def test_many_may_ask_for_the_document_first(backend: Backend) -> None:
    """It is built for the first one, which takes a while."""
    app = create_app(backend)
    together = threading.Barrier(8)

    def ask(_number: int) -> tuple[int, bytes]:
        client = app.test_client()
        together.wait()
        response = client.get("/openapi.json")
        return response.status_code, response.data

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(ask, range(8)))
    assert [status for status, _document in answers] == [200]
