"""Every operation under generated requests, valid and not: the OpenAPI document keeps its word.

Schemathesis runs as a command of its own, so that its warnings and pytest's settings are apart;
schemathesis.toml says what it tries and schemathesis_checks.py what this project adds.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live_server import ROOT, Api, LiveServer, pack_agent

pytestmark = [pytest.mark.schemathesis, pytest.mark.slow]

CONFIG = Path(__file__).with_name("schemathesis.toml")
MAX_SECONDS = 120  # each run; it takes about 25 on two cores
AGENT = "def handle(payload):\n    return payload\n"

# Who asks, and what does not apply then.
RUNS: dict[str, list[str]] = {
    "token": [],
    # A key must not revoke itself, and does not open what needs a person.
    "key": ["--exclude-operation-id=revoke_api_key", "--exclude-checks=EveryOperationSucceeds"],
    "nobody": ["--exclude-checks=EveryOperationSucceeds"],
}


@dataclass(frozen=True)
class Target:
    """A server as its one user sees it, who has an agent that can be executed."""

    api: Api
    agent_id: int
    headers: dict[str, list[str]]
    environment: dict[str, str]


@pytest.fixture(scope="module", autouse=True)
def _schemathesis() -> None:
    """Skip where Schemathesis is not installed, but fail where everything must be tested."""
    if importlib.util.find_spec("schemathesis") is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("schemathesis is not installed; see requirements-dev.txt")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with LiveServer(tmp_path / "data") as server:
        by_key = server.api.new_user("fuzzer")
        credentials = {"username": "fuzzer", "password": "correct horse"}
        login = server.api.call("POST", "/api/v1/auth/login", credentials)
        by_token = server.api.with_headers(Authorization=f"Bearer {login.json['access_token']}")
        agent_id = by_token.deploy(pack_agent(AGENT))
        version = by_token.call("GET", f"/api/v1/agents/{agent_id}/versions").json[0]
        yield Target(
            by_token,
            agent_id,
            headers={"token": _options(by_token), "key": _options(by_key), "nobody": []},
            environment={
                "FUZZED_AGENT_ID": str(agent_id),
                "FUZZED_OTHER_AGENT_ID": str(by_token.new_agent("other")),
                "FUZZED_ARTIFACT": version["tarball_path"],
            },
        )


def _options(api: Api) -> list[str]:
    return [f"--header={name}: {value}" for name, value in api.headers.items()]


@pytest.mark.parametrize("who", RUNS)
def test_every_operation_keeps_to_the_document(target: Target, who: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
    document = f"{target.api.url}/openapi.json"
    run = subprocess.run(
        [*command, "run", document, "--no-color", *target.headers[who], *RUNS[who]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **target.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=MAX_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    execution = target.api.execute(target.agent_id, {"n": 1})
    assert (execution.status, execution.json.get("status")) == (201, "completed"), execution.body
    if who == "nobody":
        assert len(target.api.call("GET", "/api/v1/agents").json) == 2
