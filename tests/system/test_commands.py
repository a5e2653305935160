"""The commands as a person types them: `run.py` in a process of its own."""

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests import live_server
from tests.live_server import RUN_PY, SUITE_SETTINGS, Answer, Api, LiveServer, pack_agent
from tests.processes import descendants, is_running
from tests.waiting import DEADLINE_SECONDS, wait_for

SLEEPER = (
    "import time\ndef handle(payload):\n    time.sleep(payload['seconds'])\n    return payload\n"
)


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*live_server.PROGRAM, *arguments],
        env={**os.environ, **SUITE_SETTINGS, **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_without_a_command_it_shows_help() -> None:
    done = run()
    assert done.returncode == 0
    commands = ("quickstart", "serve", "backup", "restore", "config", "doctor", "test", "bench")
    for command in commands:
        assert f"  {command} " in done.stdout


def test_an_unknown_command_is_named() -> None:
    done = run("sevre")
    assert done.returncode == 2
    assert "No such command 'sevre'" in done.stderr


def test_bench_tells_its_own_options_and_refuses_others() -> None:
    assert "--write-docs" in run("bench", "--help").stdout
    done = run("bench", "--suite", "none")
    assert done.returncode == 2
    assert "executions" in done.stderr


@pytest.mark.slow
def test_the_tests_are_those_of_the_project_wherever_one_stands(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_other.py").write_text("def test_other(): raise SystemError\n")
    done = subprocess.run(
        [sys.executable, str(RUN_PY), "test", "--collect-only", "-q", "-k", "unknown_command"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "tests/system/test_commands.py::" in done.stdout
    assert "test_other" not in done.stdout


# config and doctor --------------------------------------------------------------------------------


def test_config_shows_value_and_source_and_masks_the_secret() -> None:
    secret = "s" * 40
    done = run("config", "--json", SECRET_KEY=secret, WORKER_CONCURRENCY="7")
    assert done.returncode == 0
    assert secret not in done.stdout
    rows = json.loads(done.stdout)
    assert rows["WORKER_CONCURRENCY"] == {"value": "7", "source": "environment"}
    assert rows["SECRET_KEY"]["value"] == "**** (set)"
    text = run("config", SECRET_KEY=secret).stdout
    assert secret not in text
    assert {line.split()[0] for line in text.splitlines()} == set(rows)


def test_every_wrong_setting_is_named_at_once() -> None:
    done = run("serve", UPLOAD_MAX_SIZE="lots", ALGORITHM="none")
    assert done.returncode == 1
    assert "UPLOAD_MAX_SIZE" in done.stderr
    assert "ALGORITHM" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_tells_which_layers_stand() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for layer in ("session", "rlimits", "no_new_privs"):
        assert any(line.split()[:2] == [layer, "on"] for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1] == "Agents can run."
    found = json.loads(run("doctor", "--json").stdout)
    assert (found["can_run"], found["message"], found["min_tier"]) == (True, "", "B")
    assert f"tier {found['tier']}" in done.stdout
    assert {layer["name"] for layer in found["layers"] if layer["is_on"]} >= {"rlimits"}


# quickstart ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "data"


def quickstart(data: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run("quickstart", "--no-serve", "--port", "0", "--data", str(data), *arguments)


def test_quickstart_demonstrates_then_reuses_what_is_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = quickstart(data)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert len(lines) <= 20
    assert '"words": 2167' in first.stdout
    keys = [line for line in lines if "ANYMIND_API_KEY=" in line]
    assert len(keys) == 1
    assert first.stdout.count("anymind_") == 1
    assert str(data) in first.stdout
    assert "/docs" in first.stdout

    second = json.loads(quickstart(data, "--json").stdout)
    assert keys[0].strip() == f"export ANYMIND_API_KEY={second['api_key']}"
    assert second["agent_id"] == 1
    assert second["execution"]["id"] == 2


@pytest.mark.slow
def test_quickstart_survives_a_lost_account_file(data: Path) -> None:
    quickstart(data)
    (data / "quickstart.json").unlink()
    again = json.loads(quickstart(data, "--json").stdout)
    assert again["username"].startswith("quickstart-")
    assert again["execution"]["status"] == "completed"


@pytest.mark.slow
def test_quickstart_takes_its_archived_agent_up_again(tmp_path: Path) -> None:
    first = json.loads(quickstart(tmp_path / "data", "--json").stdout)
    with LiveServer(tmp_path / "data") as live:
        api = live.api.with_headers(X_API_Key=first["api_key"])
        path = f"/api/v1/agents/{first['agent_id']}"
        assert api.call("PATCH", path, {"status": "archived"}).status == 200
    again = quickstart(tmp_path / "data", "--json")
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert second["agent_id"] == first["agent_id"]
    assert second["execution"]["status"] == "completed"


def test_quickstart_keeps_its_secrets_to_the_owner(data: Path) -> None:
    quickstart(data)
    # A root server's agents are another user, who may pass but not look.
    assert stat.S_IMODE(data.stat().st_mode) == (0o710 if os.geteuid() == 0 else 0o700)
    for path in data.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o067 == 0, path
    for name in ("quickstart.json", "secret.key", "anymind.sqlite3", "queue.sqlite3"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600


def test_quickstart_takes_the_next_free_port_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            "quickstart", "--no-serve", "--data", str(tmp_path / "data"), SERVER_PORT=str(port)
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Port {port} is taken; serving on ")


def test_quickstart_serves_on_until_it_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN_PY), "quickstart", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path / "data")],
        env={**os.environ, **SUITE_SETTINGS},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if "ANYMIND_API_URL=" in line:
                url = line.strip().partition("=")[2]
            if line.startswith("Serving until"):
                break
        assert Api(url).call("GET", "/health").json == {"status": "healthy"}
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0


# serve --------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path / "data") as server:
        yield server


def test_a_second_server_on_the_data_folder_is_refused(live: LiveServer) -> None:
    done = run("serve", "--port", "0", "--data", str(live.data))
    assert done.returncode == 1
    assert f"Another server (pid {live.process.pid}) uses the data folder" in done.stderr
    assert live.api.call("GET", "/health").status == 200


def start_sleeping(api: Api, seconds: float) -> tuple[threading.Thread, list[Answer]]:
    """Start an execution that sleeps; return when it runs, with its thread and its answers."""
    agent_id = api.deploy(pack_agent(SLEEPER))
    answers: list[Answer] = []

    def execute() -> None:
        try:
            answers.append(api.execute(agent_id, {"seconds": seconds}))
        except (OSError, HTTPException):
            pass  # the server went away in the middle

    thread = threading.Thread(target=execute)
    thread.start()

    def look() -> Any:
        rows = api.call("GET", "/api/v1/runtime/executions").json
        return [row for row in rows if row["status"] == "running"]

    wait_for(look, "the execution to run")
    return thread, answers


def wait_for_the_end_of(tree: set[int]) -> None:
    wait_for(lambda: not [pid for pid in tree if is_running(pid)], "the processes to be gone")


def test_sigterm_lets_a_running_execution_end(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        thread, answers = start_sleeping(live.api.new_user("patient"), 1.5)
        assert live.stop() == 0
        thread.join()
    assert answers[0].json["status"] == "completed"


def test_sigterm_kills_what_runs_longer_than_the_grace(tmp_path: Path) -> None:
    settings = {"SHUTDOWN_GRACE_SECONDS": "0.5"}
    with LiveServer(tmp_path / "data", settings=settings) as live:
        tree = descendants(live.process.pid)
        thread, answers = start_sleeping(live.api.new_user("hasty"), 25)
        tree |= descendants(live.process.pid)
        assert live.stop() == 0
        thread.join()
    assert answers[0].json["status"] == "failed"
    assert not [pid for pid in tree if is_running(pid)]


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    live = LiveServer(tmp_path / "data").start()
    thread, answers = start_sleeping(live.api.new_user("impatient"), 25)
    tree = descendants(live.process.pid)
    live.process.send_signal(signal.SIGTERM)
    wait_for(lambda: refuses_connections(live), "the first signal to be heard")
    assert live.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    thread.join()
    assert answers == []
    wait_for_the_end_of(tree)


def refuses_connections(live: LiveServer) -> bool:
    try:
        live.api.call("GET", "/health")
    except OSError:
        return True
    return False


def test_a_killed_server_leaves_no_process_and_says_what_was_interrupted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    live = LiveServer(data).start()
    api = live.api.new_user("unlucky")
    thread, _answers = start_sleeping(api, 25)
    tree = descendants(live.process.pid)
    live.stop(signal.SIGKILL)
    thread.join()
    wait_for_the_end_of(tree)
    with LiveServer(data) as again:
        api = Api(again.url, api.headers)
        (row,) = api.call("GET", "/api/v1/runtime/executions").json
        assert row["status"] == "failed"
        assert row["error_message"] == "Interrupted by a server restart."
        assert api.execute(1, {"seconds": 0}).json["status"] == "completed"


@pytest.mark.slow  # test_backend.py holds the refusal; this, that `serve` says it
def test_a_lost_database_beside_artifacts_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with LiveServer(data) as live:
        live.api.new_user("loser").deploy(pack_agent(SLEEPER))
    for name in ("anymind.sqlite3", "anymind.sqlite3-wal", "anymind.sqlite3-shm"):
        (data / name).unlink(missing_ok=True)
    done = run("serve", "--port", "0", "--data", str(data))
    assert done.returncode == 1
    assert "is missing, but" in done.stderr
    assert list((data / "artifacts").rglob("*.tar.gz"))


def test_sigterm_gives_a_running_build_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with LiveServer(data) as live:
        api = live.api.new_user("builder")
        agent_id = api.new_agent()
        before = descendants(live.process.pid)
        version = api.upload(agent_id, pack_agent("import time\ntime.sleep(25)\n")).json
        wait_for(lambda: descendants(live.process.pid) != before, "the build to run")
        assert live.stop() == 0
    with sqlite3.connect(data / "anymind.sqlite3") as database:
        row = database.execute("SELECT id, status, attempts FROM agent_version").fetchone()
    database.close()
    assert row == (version["id"], "queued", 0)
