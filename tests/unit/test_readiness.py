"""`/ready` says what a server cannot do now, in words that show no internals, and when it can."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from anymind_lite.app import create_app
from anymind_lite.backend import Backend
from anymind_lite.config import load_settings
from tests.waiting import wait_for

READY = {
    "status": "ready",
    "checks": {"database": "ok", "queue": "ok", "sandbox": "ok", "disk": "ok"},
}


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    # Tier C, so that the answer is the same on every machine.
    backend = Backend(load_settings(tmp_path, environ={"MIN_TIER": "C"}).settings)
    backend.start()
    yield backend
    backend.stop()


@pytest.fixture
def client(backend: Backend) -> FlaskClient:
    return create_app(backend).test_client()


def ask(client: FlaskClient) -> tuple[int, Any]:
    response = client.get("/ready")
    return response.status_code, response.get_json()


def not_ready(**checks: str) -> tuple[int, Any]:
    return 503, {"status": "not ready", "checks": {**READY["checks"], **checks}}  # type: ignore[dict-item]


def test_whole_server_is_ready(client: FlaskClient) -> None:
    assert ask(client) == (200, READY)


def test_database_that_cannot_be_read(client: FlaskClient, backend: Backend) -> None:
    path = backend.settings.database_path
    with closing(sqlite3.connect(path)) as other:
        tables = [row[0] for row in other.execute("SELECT name FROM sqlite_master")]
        users = next(name for name in tables if name.startswith("user"))
        other.execute(f"ALTER TABLE {users} RENAME TO away")
        assert ask(client) == not_ready(database="cannot be read")
        other.execute(f"ALTER TABLE away RENAME TO {users}")
    assert ask(client) == (200, READY)


def test_queue_that_was_stopped(client: FlaskClient, backend: Backend) -> None:
    backend.build_queue.stop()
    assert ask(client) == not_ready(queue="not running")
    backend.build_queue.start()
    assert ask(client) == (200, READY)


def test_sandbox_whose_process_died(client: FlaskClient, backend: Backend) -> None:
    pid = backend.sandbox.zygote_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    starting = not_ready(sandbox="being started again")
    wait_for(lambda: ask(client) == starting, "the death to be noticed")
    wait_for(lambda: ask(client) == (200, READY), "another one")


def test_sandbox_that_refuses(client: FlaskClient, backend: Backend) -> None:
    backend.sandbox._ground = type(backend.sandbox.ground)(zygote_pid=0, error="no /proc")
    assert ask(client) == not_ready(sandbox="refuses to run agents")


@pytest.mark.parametrize(("less", "is_enough"), [(-1, False), (0, True)])
def test_disk_that_is_nearly_full(
    client: FlaskClient,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    less: int,
    is_enough: bool,
) -> None:
    free = backend.settings.disk_reserve_bytes + less
    monkeypatch.setattr(backend.upload_disk, "_measure", lambda _: free)
    assert ask(client) == ((200, READY) if is_enough else not_ready(disk="nearly full"))


def test_database_that_was_found_damaged(client: FlaskClient, backend: Backend) -> None:
    backend._database.damage = "row 7 missing from index"
    assert ask(client) == not_ready(database="damaged")


def test_log_tells_what_is_wrong_when_it_changes_and_not_when_it_is_asked_for(
    client: FlaskClient, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    def told_by_three() -> list[tuple[str, str]]:
        caplog.clear()
        for _ in range(3):
            ask(client)
        ours = [one for one in caplog.records if one.name == "anymind_lite.services.readiness"]
        return [(one.levelname, one.getMessage()) for one in ours]

    caplog.set_level("INFO")
    assert told_by_three() == []
    queue, damaged = "'queue': 'not running'", "'database': 'damaged'"
    backend.build_queue.stop()
    assert told_by_three() == [("WARNING", f"event=not_ready checks={{{queue}}}")]
    backend._database.damage = "row 7 missing from index"
    assert told_by_three() == [("WARNING", f"event=not_ready checks={{{damaged}, {queue}}}")]
    backend._database.damage = ""
    backend.build_queue.start()
    assert told_by_three() == [("INFO", "event=ready_again")]


def test_each_folder_is_looked_at(client: FlaskClient, backend: Backend) -> None:
    backend.settings.storage_path.rename(backend.settings.data_dir / "away")
    assert ask(client) == not_ready(disk="cannot be reached")


def test_stopping_server_is_not_ready(client: FlaskClient, backend: Backend) -> None:
    backend.drain(0)
    assert ask(client) == (503, {**READY, "status": "stopping"})
