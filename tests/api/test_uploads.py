"""Uploading artifacts and downloading them again."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from anymind_lite import storage
from anymind_lite.backend import Backend
from anymind_lite.database import write_transaction
from anymind_lite.errors import NotFound
from anymind_lite.files import make_dir_durable
from anymind_lite.models import Agent, AgentVersion, Execution, User
from anymind_lite.services import versions
from anymind_lite.services.agents import delete_agent
from tests.api.conftest import (
    ECHO_ARCHIVE,
    PASSWORD,
    Person,
    add_execution,
    add_version,
    body_of,
    detail,
    files_under,
    make_agent,
    set_agent_status,
    upload,
)

BOUNDARY = "----boundary"
MISSING = "Send the archive as the form field 'file', with a file name"
MALFORMED = "The multipart body is malformed"
TRUNCATED = "The upload ended early; send the whole file again"


def part(content: bytes, headers: str = 'name="file"; filename="agent.tar.gz"') -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {headers}\r\n\r\n".encode()
    return head + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


class Untouchable(io.BytesIO):
    """A body that nobody may read."""

    def read(self, *_: object) -> bytes:
        raise AssertionError

    readinto = read  # type: ignore[assignment]


@pytest.fixture
def agent_id(client: FlaskClient, alice: Person) -> int:
    return make_agent(client, alice)


@pytest.fixture
def nothing_stays(backend: Backend, agent_id: int) -> Iterator[None]:
    before = files_under(backend.settings.storage_path)
    yield
    assert files_under(backend.settings.storage_path) == before
    assert AgentVersion.select().where(AgentVersion.agent == agent_id).count() == 0


def post(
    client: FlaskClient,
    headers: dict[str, str],
    agent_id: int,
    body: bytes | io.BytesIO,
    *,
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    announced: int | None = None,
) -> TestResponse:
    """Send these very bytes; `announced` is a Content-Length that does not fit them."""
    return client.post(
        f"/api/v1/uploads/agent/{agent_id}",
        input_stream=body if isinstance(body, io.BytesIO) else io.BytesIO(body),
        content_type=content_type,
        headers=headers,
        environ_overrides={} if announced is None else {"CONTENT_LENGTH": str(announced)},
    )


class TestUpload:
    def test_answers_201_with_a_queued_version(
        self, client: FlaskClient, alice: Person, agent_id: int, backend: Backend
    ) -> None:
        version = body_of(upload(client, alice, agent_id), 201)
        assert version["agent_id"] == agent_id
        assert (version["version"], version["status"]) == ("v1", "queued")
        assert (version["build_log"], version["entrypoint"], version["config"]) == (None,) * 3
        assert version["tarball_path"].startswith(f"agents/{agent_id}/artifacts/")
        row = AgentVersion.get_by_id(version["id"])
        assert row.tarball_sha256 == hashlib.sha256(ECHO_ARCHIVE).hexdigest()
        assert row.tarball_bytes == len(ECHO_ARCHIVE)
        assert body_of(upload(client, alice, agent_id), 201)["version"] == "v2"

    def test_other_fields_before_and_after_are_passed_over(
        self, client: FlaskClient, alice: Person, agent_id: int
    ) -> None:
        body = (
            b"preamble\r\n"
            + part(b"x" * 100_000, 'name="note"')
            + part(b"y", 'name="other"; filename="o.bin"')
            + part(ECHO_ARCHIVE)
            + part(b"z", 'name="last"')
            + END
            + b"epilogue"
        )
        body_of(post(client, alice.by_key, agent_id, body), 201)

    def test_archive_that_holds_the_boundary_arrives_whole(
        self, client: FlaskClient, alice: Person, agent_id: int
    ) -> None:
        noise = f"\r\n--{BOUNDARY}x\r\n--{BOUNDARY[:-1]}\r\n".encode() * 5000
        archive = ECHO_ARCHIVE + noise
        version = body_of(post(client, alice.by_key, agent_id, part(archive) + END), 201)
        row = AgentVersion.get_by_id(version["id"])
        assert row.tarball_sha256 == hashlib.sha256(archive).hexdigest()

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (END, MISSING),
            (part(b"x", 'name="other"; filename="agent.tar.gz"') + END, MISSING),
            (part(b"x", 'name="file"') + END, MISSING),
            (part(b"x", 'filename="agent.tar.gz"') + END, MISSING),
            (b"", TRUNCATED),
            (b"nonsense", TRUNCATED),
            (part(ECHO_ARCHIVE), TRUNCATED),
            (part(ECHO_ARCHIVE)[:200], TRUNCATED),
            (part(ECHO_ARCHIVE) + END[:-6], TRUNCATED),
            (part(ECHO_ARCHIVE) + part(b"x", 'name="other"'), TRUNCATED),
            (b"x" * 200_000, MALFORMED),
            (f"--{BOUNDARY}\r\nX: {'y' * 200_000}".encode(), MALFORMED),
            (f"--{BOUNDARY}\r\nA: b\r\n\r\nbody\r\n".encode() + END, MALFORMED),
            (part(b"x", 'name="file"; filename="\xff"').replace(b"\xc3\xbf", b"\xff"), MALFORMED),
            (part(ECHO_ARCHIVE) + END + b"x" * 200_000, MALFORMED),
            (
                part(ECHO_ARCHIVE) + part(ECHO_ARCHIVE) + END,
                "Send only one form field 'file'",
            ),
            (
                part(b"x", 'name="n"') * 30 + part(ECHO_ARCHIVE) + END,
                "The multipart body has more than 20 parts",
            ),
            (part(b"not an archive") + END, "File must be a .tar.gz archive"),
            (part(b"") + END, "File must be a .tar.gz archive"),
            (
                part(ECHO_ARCHIVE, 'name="file"; filename="agent.zip"') + END,
                "File must be a .tar.gz archive",
            ),
            (
                part(ECHO_ARCHIVE, 'name="file"; filename=""') + END,
                "File must be a .tar.gz archive",
            ),
        ],
    )
    @pytest.mark.usefixtures("nothing_stays")
    def test_bad_body_is_400_and_nothing_is_kept(
        self, client: FlaskClient, alice: Person, agent_id: int, body: bytes, sentence: str
    ) -> None:
        assert detail(post(client, alice.by_key, agent_id, body), 400) == sentence

    @pytest.mark.usefixtures("nothing_stays")
    def test_client_that_hangs_up_is_400_and_nothing_is_kept(
        self, client: FlaskClient, alice: Person, agent_id: int
    ) -> None:
        body = part(ECHO_ARCHIVE) + END
        response = post(client, alice.by_key, agent_id, body[:-10], announced=len(body))
        assert detail(response, 400) == TRUNCATED

    @pytest.mark.parametrize(
        ("content_type", "sentence"),
        [
            ("application/json", "Send the archive as multipart/form-data"),
            ("application/gzip", "Send the archive as multipart/form-data"),
            ("", "Send the archive as multipart/form-data"),
            ("multipart/mixed; boundary=x", "Send the archive as multipart/form-data"),
            ("multipart/form-data", "The multipart boundary must have 1 to 200 characters"),
            (
                "multipart/form-data; boundary=" + "x" * 201,
                "The multipart boundary must have 1 to 200 characters",
            ),
            (
                "multipart/form-data; boundary=\xe9",
                "The multipart boundary must have 1 to 200 characters",
            ),
        ],
    )
    @pytest.mark.usefixtures("nothing_stays")
    def test_other_kinds_of_body_are_400(
        self, client: FlaskClient, alice: Person, agent_id: int, content_type: str, sentence: str
    ) -> None:
        response = post(
            client,
            alice.by_key,
            agent_id,
            part(ECHO_ARCHIVE) + END,
            content_type=content_type,
        )
        assert detail(response, 400) == sentence

    @pytest.mark.usefixtures("nothing_stays")
    def test_file_over_the_limit_is_413(
        self, client: FlaskClient, alice: Person, agent_id: int, backend: Backend
    ) -> None:
        over = ECHO_ARCHIVE + b"x" * backend.settings.upload_max_bytes
        assert "300,000 bytes" in detail(upload(client, alice, agent_id, over), 413)

    @pytest.mark.usefixtures("nothing_stays")
    def test_announced_size_over_the_limit_is_413_before_a_byte_is_read(
        self, client: FlaskClient, alice: Person, agent_id: int, backend: Backend
    ) -> None:
        announced = backend.settings.upload_max_bytes + 1024 * 1024 + 1
        response = post(client, alice.by_key, agent_id, Untouchable(), announced=announced)
        assert "300,000 bytes" in detail(response, 413)

    def test_body_is_not_read_for_strangers_nor_for_others(
        self, client: FlaskClient, bob: Person, agent_id: int
    ) -> None:
        detail(post(client, {}, agent_id, Untouchable(), announced=100), 401)
        detail(post(client, bob.by_key, agent_id, Untouchable(), announced=100), 404)

    def test_archived_agent_takes_no_upload(
        self, client: FlaskClient, alice: Person, agent_id: int
    ) -> None:
        set_agent_status(agent_id, "archived")
        assert "archived" in detail(upload(client, alice, agent_id), 400)

    def test_full_disk_is_507_and_nothing_is_kept(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
        nothing_stays: None,
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(backend.store, "_write", full)
        assert detail(upload(client, alice, agent_id), 507) == "The server's disk is full"


class TestReserve:
    """Little room is left on the disk: nothing large is begun, and all else goes on."""

    @pytest.fixture
    def free_mb(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        def set_free(megabytes: int) -> None:
            for reserve in (backend.disk, backend.upload_disk):
                monkeypatch.setattr(reserve, "_measure", lambda _: megabytes << 20)

        return set_free

    def test_uploads_and_executions_are_507_until_there_is_room_again(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        free_mb: Callable[[int], None],
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        version = add_version(agent_id, "ready")
        with write_transaction():
            Agent.update(current_version_id=version.id).where(Agent.id == agent_id).execute()
        before = AgentVersion.select().count(), Execution.select().count()
        free_mb(255)
        with monkeypatch.context() as patched:
            patched.setattr(backend.store, "_write", lambda *_: pytest.fail("it was written"))
            sentence = detail(upload(client, alice, agent_id), 507)
        assert "255 MB are free, and 256 MB stay in reserve" in sentence
        execute = f"/api/v1/runtime/{agent_id}/execute"
        for headers in ({}, {"Prefer": "respond-async"}):
            response = client.post(
                execute, json={"payload": {}}, headers={**alice.by_key, **headers}
            )
            assert detail(response, 507) == sentence
        after = AgentVersion.select().count(), Execution.select().count()
        assert after == before
        free_mb(300)
        assert upload(client, alice, agent_id).status_code == 201

    def test_upload_is_refused_by_its_size_too(
        self, client: FlaskClient, alice: Person, agent_id: int, free_mb: Callable[[int], None]
    ) -> None:
        free_mb(256)
        detail(upload(client, alice, agent_id), 507)

    def test_everything_else_goes_on(
        self, client: FlaskClient, alice: Person, agent_id: int, free_mb: Callable[[int], None]
    ) -> None:
        execution = add_execution(alice, add_version(agent_id, "ready"), status="running")
        free_mb(0)
        login = {"username": alice.username, "password": PASSWORD}
        runtime = f"/api/v1/runtime/executions/{execution.id}"
        for method, path, status in (
            ("GET", "/health", 200),
            ("POST", "/api/v1/auth/login", 200),
            ("GET", "/api/v1/agents", 200),
            ("GET", "/api/v1/runtime/executions", 200),
            ("GET", f"/api/v1/logs/{agent_id}", 200),
            ("POST", f"{runtime}/cancel", 200),
            ("GET", runtime, 200),
            ("DELETE", f"/api/v1/agents/{agent_id}", 204),
        ):
            body = login if path.endswith("login") else None
            headers = None if body else alice.by_key
            response = client.open(path, method=method, json=body, headers=headers)
            assert response.status_code == status, (method, path)


class TestMeanwhile:
    """What happens to the agent while its artifact is on the way."""

    @pytest.fixture
    def delete(self, alice: Person, agent_id: int, backend: Backend) -> Callable[[], None]:
        def delete() -> None:
            user = User.get_by_id(alice.id)
            with contextlib.suppress(NotFound):
                delete_agent(user, agent_id, kill_executions=print, store=backend.store)
            backend.store.remove_agent(agent_id)

        return delete

    @pytest.fixture
    def folder(self, backend: Backend, agent_id: int) -> Path:
        return backend.settings.storage_path / "agents" / str(agent_id)

    def after_writing(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]
    ) -> None:
        write = backend.store._write

        def write_then_act(*arguments: Any) -> Any:
            written = write(*arguments)
            action()
            return written

        monkeypatch.setattr(backend.store, "_write", write_then_act)

    def test_deleted_agent_is_404_and_leaves_no_folder(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
        delete: Callable[[], None],
        folder: Path,
    ) -> None:
        self.after_writing(backend, monkeypatch, delete)
        assert detail(upload(client, alice, agent_id), 404) == "Agent not found"
        assert not folder.exists()

    def test_folder_that_goes_with_its_agent_is_404(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        monkeypatch: pytest.MonkeyPatch,
        delete: Callable[[], None],
        folder: Path,
    ) -> None:
        def make_then_delete(path: Path) -> None:
            make_dir_durable(path)
            delete()

        monkeypatch.setattr(storage, "make_dir_durable", make_then_delete)
        assert detail(upload(client, alice, agent_id), 404) == "Agent not found"
        assert not folder.exists()

    def test_folder_that_goes_alone_is_our_fault(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def make_then_lose(path: Path) -> None:
            make_dir_durable(path)
            path.rmdir()

        monkeypatch.setattr(storage, "make_dir_durable", make_then_lose)
        assert detail(upload(client, alice, agent_id), 500) == "Internal server error"

    def test_archived_agent_is_400_and_stays_archived(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        backend: Backend,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
    ) -> None:
        self.after_writing(backend, monkeypatch, lambda: set_agent_status(agent_id, "archived"))
        assert "archived" in detail(upload(client, alice, agent_id), 400)
        assert Agent.get_by_id(agent_id).status == "archived"
        assert AgentVersion.select().where(AgentVersion.agent == agent_id).count() == 0
        assert not folder.exists()

    def test_row_that_cannot_be_written_takes_its_artifact_along(
        self,
        client: FlaskClient,
        alice: Person,
        agent_id: int,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
    ) -> None:
        kept = body_of(upload(client, alice, agent_id), 201)["tarball_path"]

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(versions, "_insert_version", full)
        detail(upload(client, alice, agent_id), 507)
        assert files_under(folder) == [kept.removeprefix(f"agents/{agent_id}/")]


class TestDownload:
    def test_gives_back_the_very_bytes(
        self, client: FlaskClient, alice: Person, agent_id: int
    ) -> None:
        path = body_of(upload(client, alice, agent_id), 201)["tarball_path"]
        with client.get(f"/api/v1/uploads/{path}", headers=alice.by_key) as response:
            assert response.status_code == 200
            assert response.data == ECHO_ARCHIVE
            assert response.mimetype == "application/gzip"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            name = path.rpartition("/")[2]
            assert response.headers["Content-Disposition"] == f"attachment; filename={name}"

    @pytest.mark.parametrize(
        "path",
        [
            "nothing",
            "agent/1",
            "../secret.key",
            "..%2f..%2fsecret.key",
            "%2e%2e/secret.key",
            "agents/../../secret.key",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "agents/1/artifacts/",
            "a%00b",
            "é",
            "%ff",
            "x" * 5000,
            ".incoming/x",
        ],
    )
    def test_anything_else_is_404(self, client: FlaskClient, alice: Person, path: str) -> None:
        detail(client.get(f"/api/v1/uploads/{path}", headers=alice.by_key), 404)

    def test_other_peoples_artifact_is_404(
        self, client: FlaskClient, alice: Person, bob: Person, agent_id: int
    ) -> None:
        path = body_of(upload(client, alice, agent_id), 201)["tarball_path"]
        response = client.get(f"/api/v1/uploads/{path}", headers=bob.by_key)
        assert detail(response, 404) == "File not found"
