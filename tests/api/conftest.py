"""One real backend for all API tests: real SQLite, real files, a real sandbox."""

import copy
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from anymind_lite.app import create_app
from anymind_lite.backend import Backend
from anymind_lite.clock import utc_now
from anymind_lite.config import Settings, load_settings
from anymind_lite.database import write_transaction
from anymind_lite.models import Agent, AgentVersion, Execution
from tests.live_server import pack_agent
from tests.waiting import wait_for

RUNTIME = "/api/v1/runtime"
PASSWORD = "correct horse battery"
ECHO_ARCHIVE = pack_agent("def handle(payload):\n    return {'echo': payload}\n")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Person:
    """A registered user with a token and an API key."""

    id: int
    username: str
    email: str
    token: str
    key: str
    key_id: int

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def by_key(self) -> dict[str, str]:
        return {"X-API-Key": self.key}


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    environ = {
        "PASSWORD_HASH_ROUNDS": "4",
        "LOGIN_RATE_LIMIT": "off",
        "REGISTER_RATE_LIMIT": "off",
        "UPLOAD_MAX_SIZE": "300000",
        "PAYLOAD_MAX_SIZE": "65536",
        "CORS_ORIGINS": "http://localhost:3000,http://[::1]:3000,https://app.example.com",
    }
    return load_settings(tmp_path_factory.mktemp("project"), environ=environ).settings


# For this package alone: the models are bound to one database in a process, and a backend left
# alive would repair the rows of other tests from its own threads.
@pytest.fixture(scope="package")
def backend(settings: Settings) -> Iterator[Backend]:
    # Tests write rows that no server would leave so; they are not to be repaired under them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anymind_lite.backend._REPAIR_SECONDS", 3600.0)
        backend = Backend(settings)
        backend.start()
        yield backend
        backend.stop()


@pytest.fixture(scope="package")
def app(backend: Backend) -> Flask:
    return create_app(backend)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def client_with(backend: Backend) -> Callable[..., FlaskClient]:
    """Make a client of an application that differs in some settings, over the same backend."""

    def make(**changes: Any) -> FlaskClient:
        other = copy.copy(backend)
        other.settings = replace(backend.settings, **changes)
        return create_app(other).test_client()

    return make


def new_person(client: FlaskClient) -> Person:
    """Register somebody, log in, make an API key."""
    number = next(_numbers)
    username, email = f"user{number}", f"user{number}@example.com"
    body = {"username": username, "email": email, "password": PASSWORD}
    registered = client.post("/api/v1/auth/register", json=body)
    assert registered.status_code == 201, registered.text
    token = client.post("/api/v1/auth/login", json=body).json["access_token"]  # type: ignore[index]
    bearer = {"Authorization": f"Bearer {token}"}
    made = client.post("/api/v1/api-keys", json={"name": "cli"}, headers=bearer).json
    assert registered.json is not None
    assert made is not None
    return Person(registered.json["id"], username, email, token, made["key"], made["id"])


@pytest.fixture
def make_person(client: FlaskClient) -> Callable[[], Person]:
    return lambda: new_person(client)


@pytest.fixture
def alice(make_person: Callable[[], Person]) -> Person:
    return make_person()


@pytest.fixture
def bob(make_person: Callable[[], Person]) -> Person:
    return make_person()


def detail(response: TestResponse, status: int) -> str:
    """Return the sentence of an error after checking that it has the one shape of all errors."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    body = response.get_json()
    assert set(body) == {"detail"}
    text = body["detail"]
    assert isinstance(text, str)
    assert text
    assert "\n" not in text
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    return text


def body_of(response: TestResponse, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.get_json()


def make_agent(client: FlaskClient, person: Person, name: str = "my-agent") -> int:
    response = client.post("/api/v1/agents", json={"name": name}, headers=person.by_key)
    return int(body_of(response, 201)["id"])


def add_version(agent_id: int, status: str, **columns: Any) -> AgentVersion:
    """Put a version beside an agent, as if it had been uploaded and built."""
    now, number = utc_now(), next(_numbers)
    defaults = {
        "number": AgentVersion.select().where(AgentVersion.agent == agent_id).count() + 1,
        "tarball_path": f"agents/{agent_id}/artifacts/{number}.tar.gz",
        "tarball_sha256": "0" * 64,
        "tarball_bytes": 1,
    }
    with write_transaction():
        version: AgentVersion = AgentVersion.create(
            agent=agent_id,
            status=status,
            created_at=now,
            updated_at=now,
            **{**defaults, **columns},
        )
    return version


def add_execution(person: Person, version: AgentVersion, **columns: Any) -> Execution:
    """Put an execution beside a version, as if it had been run."""
    now = utc_now()
    defaults = {
        "status": "completed",
        "input_data": "{}",
        "output_data": '{"result":1}',
        "finished_at": now,
    }
    with write_transaction():
        row: Execution = Execution.create(
            agent=version.agent_id,
            agent_version=version.id,
            user=person.id,
            created_at=now,
            started_at=now,
            updated_at=now,
            **{**defaults, **columns},
        )
    return row


def set_agent_status(agent_id: int, status: str) -> None:
    with write_transaction():
        Agent.update(status=status).where(Agent.id == agent_id).execute()


def upload(
    client: FlaskClient, person: Person, agent_id: int, archive: bytes = ECHO_ARCHIVE
) -> TestResponse:
    return client.post(
        f"/api/v1/uploads/agent/{agent_id}",
        data={"file": (io.BytesIO(archive), "agent.tar.gz")},
        headers=person.by_key,
    )


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def deploy(client: FlaskClient, person: Person, source: str) -> int:
    """Make an agent of some source and return its id once it is built."""
    agent_id = make_agent(client, person)
    body_of(upload(client, person, agent_id, pack_agent(source)), 201)

    def is_built() -> bool:
        agent = body_of(client.get(f"/api/v1/agents/{agent_id}", headers=person.by_key))
        return bool(agent["status"] == "ready")

    wait_for(is_built, "the build")
    return agent_id


@pytest.fixture
def echo(client: FlaskClient, alice: Person) -> int:
    """Return the id of an agent that prints a word and returns its payload."""
    return deploy(client, alice, "def handle(payload):\n    print('hello')\n    return payload\n")


@pytest.fixture
def sleeper(client: FlaskClient, alice: Person) -> int:
    """Return the id of an agent that runs until somebody ends it."""
    return deploy(client, alice, "import time\ndef handle(payload):\n    time.sleep(60)\n")
