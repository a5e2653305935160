"""Backups of a real server, made while it works, and servers that begin with them."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import RUN_PY, SUITE_SETTINGS, Answer, Api, LiveServer, pack_agent
from tests.waiting import DEADLINE_SECONDS

ECHO = "def handle(payload):\n    return {'version': %d, 'payload': payload}\n"
LEFT_OVERS = {
    ".anymind-backup.tar",
    ".anymind-backup.sqlite3",
    ".anymind-backup.sqlite3-journal",
}


def run(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(RUN_PY), *map(str, arguments)],
        env={**os.environ, **SUITE_SETTINGS, **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


class Worker:
    """Does the same thing again and again, from `with` until its end."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self.failure: BaseException | None = None
        self.times = 0

    def _loop(self) -> None:
        try:
            while not self._ended.is_set():
                self._act(self.times)
                self.times += 1
        except BaseException as exc:
            self.failure = exc

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure


def download(api: Api, version: Any) -> Answer:
    return api.call("GET", f"/api/v1/uploads/{version['tarball_path']}")


def versions_of(api: Api, agent_id: int) -> list[Any]:
    listed = api.call("GET", f"/api/v1/agents/{agent_id}/versions?limit=1000").json
    assert isinstance(listed, list)
    return listed


@pytest.mark.slow
def test_a_server_that_works_meanwhile_is_saved_and_comes_back(tmp_path: Path) -> None:
    uploads: dict[int, bytes] = {}
    finished: dict[int, Any] = {}
    with LiveServer(tmp_path / "data") as live:
        api = live.api.new_user("ada")
        busy, uploaded = api.deploy(pack_agent(ECHO % 0)), api.new_agent("uploaded")

        def upload(number: int) -> None:
            archive = pack_agent(ECHO % number, **{"more.txt": "x" * number})
            answer = api.upload(uploaded, archive)
            assert answer.status == 201, answer.body
            uploads[answer.json["id"]] = archive

        def execute(number: int) -> None:
            answer = api.execute(busy, {"number": number})
            assert answer.json["status"] == "completed", answer.body
            finished[answer.json["id"]] = answer.json

        def come_and_go(number: int) -> None:
            passing = api.new_agent(f"passing {number}")
            version = api.upload(passing, pack_agent(ECHO % number)).json
            api.wait_for_build(passing, version["id"])
            assert api.call("DELETE", f"/api/v1/agents/{passing}").status == 204

        known: list[tuple[Path, set[int], set[int]]] = []
        with Worker(upload) as first, Worker(execute) as second, Worker(come_and_go) as third:
            for number in range(4):
                before = set(uploads), set(finished)
                saved = tmp_path / f"{number}.tar"
                done = run("backup", saved, "--data", live.data)
                assert (done.returncode, done.stderr) == (0, "")
                known.append((saved, *before))
        assert min(first.times, second.times, third.times) >= 4
    last, uploads_before, executions_before = known[-1]
    assert uploads_before
    assert executions_before
    assert run("restore", last, "--data", tmp_path / "restored").returncode == 0
    with LiveServer(tmp_path / "restored") as restored:
        again = Api(restored.url, api.headers)
        kept = {row["id"]: row for row in list_executions(again)}
        assert executions_before <= set(kept)
        for number in set(kept) & set(finished):
            if kept[number]["status"] == "completed":
                assert kept[number]["output_data"] == finished[number]["output_data"]
        assert uploads_before <= {row["id"] for row in versions_of(again, uploaded)}
        check_restored(again, busy, uploaded, uploads)
        log_in = {"username": "ada", "password": "correct horse"}
        assert restored.api.call("POST", "/api/v1/auth/login", log_in).status == 200


def list_executions(api: Api) -> list[Any]:
    rows = api.call("GET", "/api/v1/runtime/executions?limit=1000").json
    assert isinstance(rows, list)
    return rows


def check_restored(api: Api, busy: int, uploaded: int, uploads: dict[int, bytes]) -> None:
    """Everything that the backup names is there and works."""
    assert api.execute(busy, {"a": 1}).json["output_data"] == {"version": 0, "payload": {"a": 1}}
    for version in versions_of(api, uploaded):
        assert api.wait_for_build(uploaded, version["id"])["status"] == "ready"
        assert download(api, version).body == uploads[version["id"]]
    assert api.execute(uploaded).json["status"] == "completed"
    agents = api.call("GET", "/api/v1/agents?limit=1000").json
    for agent in agents:
        for version in versions_of(api, agent["id"]):
            assert download(api, version).status == 200


@pytest.mark.slow
def test_log_ins_from_before_a_backup_hold_after_it(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        live.api.new_user("ada")
        log_in = {"username": "ada", "password": "correct horse"}
        token = live.api.call("POST", "/api/v1/auth/login", log_in).json["access_token"]
        assert run("backup", tmp_path / "x.tar", "--data", live.data).returncode == 0
    restored = run("restore", tmp_path / "x.tar", "--data", tmp_path / "restored")
    assert re.match(r"Restored the backup of 20\d\d-.*Z into .*: 0 artifacts\.\n", restored.stdout)
    with LiveServer(tmp_path / "restored") as again:
        signed_in = again.api.with_headers(Authorization=f"Bearer {token}")
        assert signed_in.call("GET", "/api/v1/auth/me").json["username"] == "ada"


@pytest.mark.slow
def test_what_is_lost_is_told_and_the_rest_comes_back(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        api = live.api.new_user("ada")
        lost, kept = api.deploy(pack_agent(ECHO % 1)), api.deploy(pack_agent(ECHO % 2))
        (version,) = versions_of(api, lost)
        (live.data / "artifacts" / version["tarball_path"]).unlink()
        done = run("backup", tmp_path / "x.tar", "--data", live.data)
    assert done.returncode == 1
    assert done.stderr == (
        f"Warning: {version['tarball_path']} is missing or damaged, and not in the backup.\n"
    )
    restored = run("restore", tmp_path / "x.tar", "--data", tmp_path / "restored")
    assert restored.returncode == 0
    assert restored.stderr.startswith("Warning: 1 artifacts were missing or damaged already")
    with LiveServer(tmp_path / "restored") as again:
        api = Api(again.url, api.headers)
        assert api.execute(kept).json["status"] == "completed"
        assert api.execute(lost).status >= 400 or api.execute(lost).json["status"] == "failed"


def test_nothing_is_made_where_there_is_no_database(tmp_path: Path) -> None:
    done = run("backup", tmp_path / "x.tar", "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "There is nothing to back up" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_running_server_keeps_its_folder(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        assert run("backup", tmp_path / "x.tar", "--data", live.data).returncode == 0
        done = run("restore", tmp_path / "x.tar", "--data", live.data)
        assert done.returncode == 1
        assert f"Another server (pid {live.process.pid}) uses the data folder" in done.stderr
        assert live.api.call("GET", "/health").status == 200
    done = run("restore", tmp_path / "x.tar", "--data", live.data)
    assert done.returncode == 1
    assert "a restore overwrites nothing" in done.stderr


@pytest.mark.slow
def test_a_server_refuses_half_of_a_backup_until_it_is_whole(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        live.api.new_user("ada").deploy(pack_agent(ECHO % 1))
        assert run("backup", tmp_path / "x.tar", "--data", live.data).returncode == 0
    half = tmp_path / "half"
    (half / "artifacts" / "agents" / "1").mkdir(parents=True)
    (half / "restore-unfinished").touch()
    done = run("serve", "--port", "0", "--data", half)
    assert done.returncode == 1
    assert "did not come to its end. Repeat it: python3 run.py restore FILE" in done.stderr
    assert run("restore", tmp_path / "x.tar", "--data", half).returncode == 0
    with LiveServer(half) as restored:
        assert restored.api.call("GET", "/health").status == 200


@pytest.mark.slow
def test_killed_backups_leave_no_file_and_the_server_as_it_was(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        api = live.api.new_user("ada")
        agent = api.new_agent()
        for number in range(20):
            archive = pack_agent(ECHO % number, **{"more.txt": os.urandom(300_000).hex()})
            assert api.upload(agent, archive).status == 201
        target, folder = tmp_path / "saved" / "x.tar", tmp_path / "saved"
        folder.mkdir()
        command = [sys.executable, str(RUN_PY), "backup", str(target), "--data", str(live.data)]
        for mebibytes in range(6):
            with subprocess.Popen(command, env={**os.environ, **SUITE_SETTINGS}) as process:
                wait_until_written(folder, process, mebibytes * 2**20)
                process.send_signal(signal.SIGKILL)
            if target.exists():
                target.unlink()
            assert set(os.listdir(folder)) <= LEFT_OVERS
            assert api.execute(agent).status in (201, 400)
        assert run("backup", target, "--data", live.data).returncode == 0
        assert os.listdir(folder) == ["x.tar"]
    with tarfile.open(target) as archive_:
        assert len(archive_.getnames()) == 23


def wait_until_written(folder: Path, process: "subprocess.Popen[bytes]", size_bytes: int) -> None:
    """Return when so much of a backup is there, or the command has ended."""
    unfinished = folder / ".anymind-backup.tar"
    while process.poll() is None:
        try:
            if unfinished.stat().st_size >= size_bytes:
                return
        except FileNotFoundError:
            pass
