"""Damaged and missing files: the server mends what it may throw away, and refuses to guess."""

import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.tasks import BuildQueue
from tests.faults.conftest import Ground
from tests.faults.rig import (
    Client,
    Doomed,
    Inspection,
    client_of,
    in_background,
    serving,
    spared,
)
from tests.faults.test_kill_points import die_at
from tests.live_server import Answer, LiveServer
from tests.waiting import wait_for


def refusal(data: Path) -> str:
    """Return what a server says that does not start."""
    live = LiveServer(data)
    try:
        with pytest.raises(AssertionError, match="the server ended"):
            live.start()
    finally:
        status = live.stop(signal.SIGKILL)
    assert status == 1, live.output
    assert "Traceback" not in live.output, live.output
    assert live.output.count("\n") == 1, live.output
    return live.output


def overwrite(path: Path, at: float, content: bytes) -> None:
    """Write over a file at a part of its length."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        file.write(content)


# The database -------------------------------------------------------------------------------------


def begin_anew(path: Path, *statements: str) -> None:
    """Put a new database in place of the old one."""
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def forget_all_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM user")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "its beginning is garbage": (
        lambda path: overwrite(path, 0, b"garbage" * 20),
        "cannot be read",
    ),
    "its middle is garbage": (
        lambda path: overwrite(path, 0.5, b"\xff" * 20_000),
        "amaged|be read",
    ),
    "it is cut in half": (
        lambda path: os.truncate(path, path.stat().st_size // 2),
        "amaged|be read",
    ),
    "it is empty": (lambda path: os.truncate(path, 0), "is missing, but .* holds artifacts"),
    "it is gone": (Path.unlink, "is missing, but .* holds artifacts"),
    "it is a new one without tables": (
        lambda path: begin_anew(path, "PRAGMA user_version = 1"),
        "is missing, but .* holds artifacts",
    ),
    "it has tables and no rows": (forget_all_rows, "is missing, but .* holds artifacts"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database_refuses_to_start_and_stays(ground: Ground, damage: str) -> None:
    path = ground.data / "anymind.sqlite3"
    whole = path.read_bytes()
    harm, message = DAMAGE[damage]
    harm(path)
    harmed = path.read_bytes() if path.exists() else None
    assert re.search(message, refusal(ground.data))
    assert (path.read_bytes() if path.exists() else None) == harmed
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(whole)  # from a backup
    assert Inspection(ground.data, ground.promises).run() == []


def leave_a_log(ground: Ground) -> Path:
    """Have a server die with commits in its write-ahead log; return the log's path."""
    die_at(ground, "execution", "the end is committed")
    log = ground.data / "anymind.sqlite3-wal"
    assert log.stat().st_size > 4096
    return log


@pytest.mark.parametrize("at", [0.0, 0.5, 0.9])
def test_a_damaged_log_ends_where_it_is_damaged(ground: Ground, at: float) -> None:
    """SQLite takes its frames up to the first whose checksum is wrong: an earlier state, whole."""
    before = ground.promises.copy()
    overwrite(leave_a_log(ground), at, b"\xff" * 600)
    assert Inspection(ground.data, before).run() == []


def test_a_log_of_garbage_is_passed_over(ground: Ground) -> None:
    before = ground.promises.copy()
    log = leave_a_log(ground)
    log.write_bytes(b"garbage" * 10_000)
    assert Inspection(ground.data, before).run() == []


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_database_that_another_program_locks_stops_no_reader_and_nothing_for_ever(
    ground: Ground,
) -> None:
    live = LiveServer(ground.data).start()
    try:
        client = client_of(live, ground.promises)
        locker = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(ground.data / "anymind.sqlite3")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with spared(locker), locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == "locked\n"
            assert client.api.call("GET", "/health", timeout=2).status == 200
            assert client.api.call("GET", "/api/v1/agents", timeout=2).status == 200
            answer = client.execute(ground.agent_id)  # well within the deadline
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert client.execute(ground.agent_id).json["status"] == "completed"
    finally:
        assert live.stop() == 0
    assert "event=database_locked" in live.output
    assert Inspection(ground.data, ground.promises).run() == []


def end_behind_a_lock(client: Client, ground: Ground) -> dict[str, Any]:
    """Have an execution end while another program, this one, locks the database; return its row."""
    answers: list[Answer] = []
    payload = {"sleep": 2, "n": 1}
    running = in_background(lambda: answers.append(client.execute(ground.agent_id, payload)))
    (row,) = wait_for(client.unfinished, "the execution to run")
    address = f"/api/v1/runtime/executions/{row['id']}"
    path = ground.data / "anymind.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        running.join()
        assert [(one.status, one.headers["Location"]) for one in answers] == [(503, address)]
        assert client.api.call("GET", address).json["status"] == "running"
    wait_for(lambda: not client.unfinished(), "the execution to end", 20)
    end: dict[str, Any] = client.api.call("GET", address).json
    assert end["output_data"] in (None, {"echo": payload})
    return end


def test_what_ends_while_another_program_locks_the_database_has_its_end_later(
    ground: Ground,
) -> None:
    with LiveServer(ground.data) as live:
        end = end_behind_a_lock(client_of(live, ground.promises), ground)
    assert (end["status"], end["error_code"]) == ("completed", None)
    assert Inspection(ground.data, ground.promises).run() == []


def test_a_server_that_forgets_ends_is_caught(ground: Ground) -> None:
    with serving(Doomed(ground.data, mutants=["forgotten_ends"])) as live:
        end = end_behind_a_lock(client_of(live, ground.promises), ground)
    assert (end["status"], end["error_code"]) == ("failed", "sandbox_failure")


# The build queue ----------------------------------------------------------------------------------


def leave_a_queued_build(ground: Ground) -> Path:
    """Have a server die with a version that waits; return the queue's path."""
    die_at(ground, "build", "the hint is taken")
    assert len(ground.promises.uploads) >= 1
    return ground.data / "queue.sqlite3"


@pytest.mark.parametrize(
    "content", [b"garbage" * 3000, b"", None], ids=["garbage", "empty", "gone"]
)
def test_a_damaged_queue_is_replaced_and_builds_go_on(
    ground: Ground, content: bytes | None
) -> None:
    queue = leave_a_queued_build(ground)
    for suffix in ("-wal", "-shm"):
        Path(f"{queue}{suffix}").unlink(missing_ok=True)
    queue.unlink()
    if content is not None:
        queue.write_bytes(content)
    assert Inspection(ground.data, ground.promises).run() == []


def test_senseless_messages_are_passed_over(ground: Ground) -> None:
    queue = leave_a_queued_build(ground)
    with closing(sqlite3.connect(queue)) as db, db:
        for data in (b"", b"garbage", pickle.dumps("text"), pickle.dumps(None), b"\x80" * 5000):
            db.execute("INSERT INTO task (queue, data, priority) VALUES ('builds', ?, 1)", (data,))
    assert Inspection(ground.data, ground.promises, may_complain=True).run() == []


def test_doubled_messages_and_those_for_nothing_change_nothing(ground: Ground) -> None:
    path = leave_a_queued_build(ground)
    queue = BuildQueue(path, workers=0, build=lambda _version_id: None)
    queue.start()
    senseless: list[Any] = [1, 1, 2, 2, 2, 999, -1, 2**80, None, "1", 2.5, [1], {"id": 1}]
    for version_id in senseless:
        queue.enqueue(version_id)
    queue._huey.task(name="unknown")(lambda: None)()
    queue.stop()
    assert Inspection(ground.data, ground.promises, may_complain=True).run() == []


# Artifacts ----------------------------------------------------------------------------------------

HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit is flipped": (
        lambda path: overwrite(path, 0.5, bytes([path.read_bytes()[path.stat().st_size // 2] ^ 1])),
        "The artifact is damaged on the server; upload it again.",
    ),
    "it is cut": (
        lambda path: os.truncate(path, path.stat().st_size - 1),
        "The artifact is damaged on the server; upload it again.",
    ),
    "it is gone": (Path.unlink, "The artifact is missing on the server; upload it again."),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_execution_says_that_its_artifact_is_lost(ground: Ground, harm: str) -> None:
    (artifact,) = ground.data.glob("artifacts/agents/*/artifacts/*")
    HARM[harm][0](artifact)
    with LiveServer(ground.data) as live:
        row = client_of(live, ground.promises).execute(ground.agent_id).json
    assert (row["status"], row["error_message"]) == ("failed", HARM[harm][1])


@pytest.mark.parametrize("harm", HARM)
def test_a_build_says_that_its_artifact_is_lost(ground: Ground, harm: str) -> None:
    die_at(ground, "upload", "the row is committed")
    artifacts = set(ground.data.glob("artifacts/agents/*/artifacts/*"))
    (row, _digest) = ground.promises.uploads[1]
    (artifact,) = artifacts - {ground.data / "artifacts" / row["tarball_path"]}
    HARM[harm][0](artifact)
    with LiveServer(ground.data) as live:
        api = client_of(live, ground.promises).api
        version = api.wait_for_build(ground.agent_id, 2)
        assert api.call("GET", f"/api/v1/agents/{ground.agent_id}").json["current_version_id"] == 1
    assert version["status"] == "failed"
    assert HARM[harm][1] in version["build_log"]


# The signing key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["gone", "empty", "cut"])
def test_a_lost_signing_key_voids_tokens_alone_and_is_said(ground: Ground, harm: str) -> None:
    login = {"username": "person", "password": "correct horse"}
    with LiveServer(ground.data) as live:
        token = live.api.call("POST", "/api/v1/auth/login", login).json["access_token"]
        by_token = {"Authorization": f"Bearer {token}"}
        assert live.api.call("GET", "/api/v1/agents", headers=by_token).status == 200
    path = ground.data / "secret.key"
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if harm == "empty" else 60)
    with LiveServer(ground.data, settings={"LOG_LEVEL": "INFO"}) as live:
        assert live.api.call("GET", "/api/v1/agents", headers=by_token).status == 401
        client = client_of(live, ground.promises)
        assert client.api.call("GET", "/api/v1/agents").status == 200
        assert live.api.call("POST", "/api/v1/auth/login", login).status == 200
        assert "tokens_void" in live.output
    assert Inspection(ground.data, ground.promises).run() == []
