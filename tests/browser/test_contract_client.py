"""The contract's own JavaScript, unchanged, in a browser: the whole main job from another origin.

`contract_client.js` is the section "UI Integration" of the contract, its code blocks in their
order, not a character changed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.browser.page_server import PageServer
from tests.live_server import Api, LiveServer, pack_agent

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AGENT = "def handle(payload):\n    return {'result': payload['input'].upper()}\n"
ARCHIVE = pack_agent(AGENT)
USER = {
    "email": "browser@example.com",
    "username": "browser",
    "password": "correct horse",
    "full_name": "Böri",
}
MAX_UPLOAD_BYTES = 200_000
REFUSED = {"error": "TypeError: Failed to fetch"}


@pytest.fixture
def pages() -> Iterator[PageServer]:
    with PageServer() as serving:
        serving.add("/agent.tar.gz", ARCHIVE)
        yield serving


def serve(tmp_path: Path, *, allowed_origin: str) -> LiveServer:
    settings = {"CORS_ORIGINS": allowed_origin, "UPLOAD_MAX_SIZE": str(MAX_UPLOAD_BYTES)}
    return LiveServer(tmp_path / "data", settings=settings)


def browser_url(server: LiveServer) -> str:
    return server.url.replace("127.0.0.1", "localhost")


def test_the_main_job_from_an_allowed_origin(
    chromium: Chromium, pages: PageServer, tmp_path: Path
) -> None:
    with serve(tmp_path, allowed_origin=pages.origin) as server:
        job = {
            "user": USER,
            "foreignAgentId": server.api.new_user("somebody-else").new_agent(),
            "tooManyBytes": MAX_UPLOAD_BYTES + 1,
        }
        pages.add_settings(browser_url(server), job)
        seen = chromium.drive(pages)
        assert_main_job_done(seen)
        assert_errors_readable(seen)


def assert_main_job_done(seen: dict[str, Any]) -> None:
    public = {name: USER[name] for name in ("email", "username", "full_name")}
    assert seen["register"] == {"id": seen["register"]["id"], **public, "is_active": True}
    assert seen["login"]["token_type"] == "bearer"
    agent = seen["create"]
    assert (agent["name"], agent["description"]) == ("from-the-browser", "Made by a web page")
    assert agent["status"] == "draft"
    assert seen["list"] == [agent]
    assert (seen["upload"]["agent_id"], seen["upload"]["version"]) == (agent["id"], "v1")
    assert seen["upload"]["status"] == "queued"
    assert seen["poll"][-1] == "ready"
    assert set(seen["poll"][:-1]) <= {"building"}
    assert seen["execute"]["status"] == "completed"
    assert seen["execute"]["output_data"] == {"result": "HELLO, WÖRLD! 😀"}


def assert_errors_readable(seen: dict[str, Any]) -> None:
    """The page may read an error's sentence only where the answer carries CORS headers."""
    assert seen["wrong login"] == {"error": "Error: Incorrect username or password"}
    assert seen["foreign agent"] == {"error": "Error: Agent not found"}
    assert seen["wrong file"] == {"detail": "File must be a .tar.gz archive"}
    assert seen["too large"] == {"detail": f"File exceeds the limit of {MAX_UPLOAD_BYTES:,} bytes"}


def test_a_page_of_another_origin_is_refused_and_changes_nothing(
    chromium: Chromium, pages: PageServer, tmp_path: Path
) -> None:
    with serve(tmp_path, allowed_origin="http://localhost:3000") as server:
        # Even a page that has somebody's token.
        owner, token = signed_in(server.api, "owner")
        agent_id = owner.new_agent()
        before = owner.call("GET", "/api/v1/agents").json
        job = {"user": USER, "token": token, "agentId": agent_id, "foreignAgentId": agent_id}
        pages.add_settings(browser_url(server), {**job, "tooManyBytes": 1})
        seen = chromium.drive(pages)
        assert seen.pop("poll", None) is None
        assert seen == dict.fromkeys(seen, REFUSED)
        assert len(seen) == 10
        assert owner.call("GET", "/api/v1/agents").json == before
        assert owner.call("GET", f"/api/v1/agents/{agent_id}/versions").json == []
        assert owner.call("GET", "/api/v1/runtime/executions").json == []
        assert server.api.call("POST", "/api/v1/auth/register", USER).status == 201


def signed_in(api: Api, username: str) -> tuple[Api, str]:
    api.new_user(username)
    credentials = {"username": username, "password": "correct horse"}
    token = api.call("POST", "/api/v1/auth/login", credentials).json["access_token"]
    return api.with_headers(Authorization=f"Bearer {token}"), token
