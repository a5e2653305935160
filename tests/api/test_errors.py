"""Every error is one JSON sentence, whatever was asked, and shows no internals."""

import errno
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from peewee import OperationalError
from werkzeug.routing import Rule

from anymind_lite.services import agents
from tests.api.conftest import PASSWORD, Person, body_of, detail

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
OPEN = ("/", "/health", "/ready", "/docs", "/docs/assets/", "/openapi.json", "/api/v1/auth/")


def address_of(rule: Rule) -> str:
    return re.sub(r"<[^>]+>", "1", rule.rule)


def is_open(path: str) -> bool:
    return path == "/" or (path.startswith(OPEN[1:]) and path != "/api/v1/auth/me")


def test_wrong_method_is_405_with_allow_on_every_address(app: Flask, client: FlaskClient) -> None:
    allowed: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        allowed.setdefault(address_of(rule), set()).update(rule.methods or ())
    # A download's address matches every other one below it.
    allowed["/api/v1/uploads/agent/1"] |= {"GET", "HEAD"}
    assert len(allowed) > 15
    for path, methods in allowed.items():
        for method in set(METHODS) - methods:
            response = client.open(path, method=method)
            if method == "HEAD":
                assert (response.status_code, response.mimetype) == (405, "application/json")
            else:
                assert detail(response, 405) == "This address does not take this method"
            assert set(response.headers["Allow"].split(", ")) == methods


def test_every_address_but_the_open_ones_wants_credentials(app: Flask, client: FlaskClient) -> None:
    guarded = 0
    for rule in app.url_map.iter_rules():
        path = address_of(rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if is_open(path):
                continue
            guarded += 1
            detail(client.open(path, method=method), 401)
            detail(client.open(path, method=method, data=b"{", content_type="text/xml"), 401)
    assert guarded >= 17


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v2/agents",
        "/api/v1/agents/1/2/3",
        "/api/v1//agents",
        "/static/x",
        "/favicon.ico",
        "/.env",
        "/<script>",
        "/%0d%0aX: y",
        "/" + "x" * 5000,
    ],
)
def test_unknown_address_is_404_for_every_method(
    client: FlaskClient, method: str, path: str
) -> None:
    response = client.open(path, method=method)
    if method == "HEAD":
        assert (response.status_code, response.mimetype) == (404, "application/json")
    else:
        assert detail(response, 404) == "There is nothing at this address"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    def fail_with(error: Exception) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(agents, "list_agents", fail)
        monkeypatch.setattr(agents, "create_agent", fail)

    return fail_with


def chained(outer: Exception, cause: Exception) -> Exception:
    outer.__context__ = cause
    return outer


class TestOurFault:
    @pytest.mark.parametrize("debug", [False, True])
    def test_is_500_with_a_traceback_in_the_log_only(
        self,
        client_with: Callable[..., FlaskClient],
        alice: Person,
        failing: Callable[[Exception], None],
        caplog: pytest.LogCaptureFixture,
        debug: bool,
    ) -> None:
        failing(KeyError("the inner secret"))
        with caplog.at_level(logging.ERROR):
            response = client_with(debug=debug).get("/api/v1/agents", headers=alice.by_key)
        assert detail(response, 500) == "Internal server error"
        assert "the inner secret" in caplog.text
        assert "Traceback" in caplog.text
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        "error",
        [
            OperationalError("database or disk is full"),
            chained(
                OperationalError("cannot rollback"), OperationalError("database or disk is full")
            ),
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
        ],
    )
    def test_full_disk_is_507(
        self,
        client: FlaskClient,
        alice: Person,
        failing: Callable[[Exception], None],
        error: Exception,
    ) -> None:
        failing(error)
        response = client.post("/api/v1/agents", json={"name": "a"}, headers=alice.by_key)
        assert detail(response, 507) == "The server's disk is full"

    def test_lock_of_another_program_is_503(
        self, client: FlaskClient, alice: Person, failing: Callable[[Exception], None]
    ) -> None:
        failing(chained(OperationalError("no transaction"), OperationalError("database is locked")))
        response = client.post("/api/v1/agents", json={"name": "a"}, headers=alice.by_key)
        assert detail(response, 503) == "Another program holds the server's database"
        assert response.headers["Retry-After"] == "5"

    @pytest.mark.parametrize("error", [RecursionError(), OverflowError("int too large")])
    def test_absurd_values_are_400(
        self,
        client: FlaskClient,
        alice: Person,
        failing: Callable[[Exception], None],
        error: Exception,
    ) -> None:
        failing(error)
        response = client.get("/api/v1/agents", headers=alice.by_key)
        assert detail(response, 400) == "A value is too large or nested too deeply"


class TestHeaders:
    @pytest.mark.parametrize(
        "path", ["/health", "/nothing", "/api/v1/agents", "/openapi.json", "/docs", "/"]
    )
    def test_every_answer_carries_the_security_headers(
        self, client: FlaskClient, path: str
    ) -> None:
        with client.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert len(response.headers.getlist("Content-Security-Policy")) == 1
            assert "Set-Cookie" not in response.headers

    def test_answers_of_the_api_are_not_stored(self, client: FlaskClient, alice: Person) -> None:
        response = client.get("/api/v1/agents", headers=alice.by_key)
        assert response.headers["Cache-Control"] == "no-store"

    def test_empty_answers_do_not_claim_to_be_html(
        self, client: FlaskClient, alice: Person
    ) -> None:
        revoked = client.delete(f"/api/v1/api-keys/{alice.key_id}", headers=alice.bearer)
        for response in (revoked, client.options("/api/v1/agents")):
            assert response.data == b""
            assert response.mimetype == "application/json"


class TestRequestLog:
    def test_one_line_a_request_without_secrets(
        self, client: FlaskClient, alice: Person, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            body_of(client.get("/api/v1/agents?skip=0", headers=alice.by_key))
            body_of(
                client.post(
                    "/api/v1/auth/login", json={"username": alice.username, "password": PASSWORD}
                )
            )
            detail(client.get("/a%0d%0aevent=forged status=200"), 404)
        lines = [r.getMessage() for r in caplog.records if r.name == "anymind_lite.app"]
        assert len(lines) == 3
        assert re.fullmatch(
            rf"method=GET path=/api/v1/agents status=200 duration_ms=[\d.]+ user_id={alice.id}",
            lines[0],
        )
        assert "\n" not in lines[2]
        assert "path=/a%0D%0Aevent%3Dforged%20status%3D200 " in lines[2]
        for secret in (PASSWORD, alice.key, alice.token, "skip"):
            assert secret not in caplog.text


def test_requests_at_once_do_not_see_each_others_input(client: FlaskClient, alice: Person) -> None:
    """Each view has one schema, which all threads use."""
    app = client.application

    def ask(number: int) -> str:
        skip = f"no-{number}" if number % 2 else str(number)
        path = f"/api/v1/runtime/executions?skip={skip}&limit={number}"
        response = app.test_client().get(path, headers=alice.by_key)
        return detail(response, 400) if number % 2 else str(body_of(response))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(1, 201)))
    assert set(answers[1::2]) == {"[]"}
    assert set(answers[::2]) == {"skip must be a whole number from 0 to 9223372036854775807"}
