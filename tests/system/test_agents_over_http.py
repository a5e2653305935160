"""Agents that misbehave, over HTTP: a clear failed execution, nothing left, the next one well."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live_server import Answer, Api, LiveServer, pack_agent
from tests.processes import descendants
from tests.waiting import wait_for

NORMAL = "def handle(payload):\n    return payload\n"

FORKING = """import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(5):
        if os.fork() == 0:
            os.setsid(); time.sleep(1000)
    time.sleep(1000)"""

HOSTILE = {
    "never_returns": ("while True: pass", "ran longer than 2 s"),
    "ignores_sigterm": (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True: pass",
        "ran longer than 2 s",
    ),
    "forks_without_asking": ("import os; os.fork()", "PermissionError"),
    "prints_fake_json": (
        'print(\'{"status": "completed", "output_data": {"forged": 1}}\'); raise ValueError("no")',
        "ValueError: no (main.py, line 2)",
    ),
    "exits_with_0": ("import os; os._exit(0)", "ended (exit code 0) before it returned"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "ended by signal SIGSEGV"),
    "returns_50_mb": ("return 'x' * 50_000_000", "at most 1,048,576 bytes are kept"),
    "eats_memory": ("return [bytearray(10**7) for _ in range(1000)]", "more than 256 MB"),
    "fills_its_folder": (
        "for n in range(200): open(str(n), 'wb').write(b'x' * 100_000)\n    raise OSError('full')",
        "OSError: full",
    ),
}


@dataclass(frozen=True)
class Normal:
    """A user with an agent that behaves, beside which others may misbehave."""

    api: Api
    agent_id: int


@pytest.fixture(scope="module")
def cold_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server in which nothing is left when nothing runs: it keeps no version imported."""
    settings = {"EXECUTION_TIMEOUT_SECONDS": "2", "WARM_MEMORY_MB": "0"}
    with LiveServer(tmp_path_factory.mktemp("cold") / "data", settings=settings) as live:
        yield live


@pytest.fixture(scope="module")
def normal(cold_server: LiveServer) -> Normal:
    api = cold_server.api.new_user("neighbour")
    return Normal(api, api.deploy(pack_agent(NORMAL), "normal"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_agent_fails_clearly_and_leaves_nothing(
    cold_server: LiveServer, normal: Normal, name: str
) -> None:
    body, message = HOSTILE[name]
    fails_and_leaves_nothing(
        cold_server, normal, pack_agent(f"def handle(payload):\n    {body}\n"), message
    )


def test_children_that_ignore_sigterm_end_with_their_agent(
    cold_server: LiveServer, normal: Normal
) -> None:
    if normal.api.call("GET", "/api/v1/system/sandbox").json["tier"] != "A":
        pytest.skip("processes are for agents in namespaces alone")
    manifest = "name: test\nentrypoint: main:handle\nsubprocess: true\n"
    source = f"def handle(payload):\n    {FORKING}\n"
    archive = pack_agent(source, **{"anymind.yaml": manifest})
    fails_and_leaves_nothing(cold_server, normal, archive, "ran longer than 2 s")


def fails_and_leaves_nothing(
    server: LiveServer, normal: Normal, archive: bytes, message: str
) -> None:
    api = normal.api
    hostile = api.deploy(archive, "hostile")
    before = descendants(server.process.pid)
    execution = api.execute(hostile).json
    assert execution["status"] == "failed"
    assert execution["output_data"] is None
    assert message in execution["error_message"]
    assert "\n" not in execution["error_message"]
    assert descendants(server.process.pid) == before
    assert list((server.data / "run" / "scratch").iterdir()) == []
    assert api.execute(normal.agent_id, {"n": 1}).json["output_data"] == {"n": 1}


def test_a_result_may_be_as_large_as_promised(api: Api) -> None:
    agent_id = api.deploy(pack_agent("def handle(payload): return {'x': 'y' * 1_048_000}"))
    execution = api.execute(agent_id).json
    assert execution["status"] == "completed"
    assert len(execution["output_data"]["x"]) == 1_048_000


def test_prints_become_logs(api: Api) -> None:
    source = "def handle(payload):\n    print('first')\n    print('second')\n    return 1 / 0\n"
    agent_id = api.deploy(pack_agent(source))
    execution = api.execute(agent_id).json
    assert execution["logs"].startswith("first\nsecond\nTraceback")
    assert 'File "main.py", line 4, in handle' in execution["logs"]
    entries = api.call("GET", f"/api/v1/logs/executions/{execution['id']}/logs").json
    messages = [entry["message"] for entry in entries]
    assert messages[0].endswith("ZeroDivisionError: division by zero (main.py, line 4)")
    assert entries[0]["level"] == "ERROR"
    assert messages[-3:] == ["second", "first", f"Execution {execution['id']} started"]
    paged = api.call("GET", f"/api/v1/logs/executions/{execution['id']}/logs?skip=1&limit=2").json
    assert paged == entries[1:3]


SLEEPER = (
    "import time\ndef handle(payload):\n    time.sleep(payload['seconds'])\n    return payload\n"
)


@pytest.fixture
def busy_server(tmp_path: Path) -> Iterator[LiveServer]:
    settings = {"WORKER_CONCURRENCY": "8", "WARM_MEMORY_MB": "0"}
    with LiveServer(tmp_path / "data", settings=settings) as live:
        yield live


def executions(api: Api, *statuses: str) -> list[int]:
    """Return the ids of the executions in some states, as one answer lists them."""
    rows = api.call("GET", "/api/v1/runtime/executions").json
    return [row["id"] for row in rows if row["status"] in statuses]


def test_the_server_answers_while_eight_executions_sleep(busy_server: LiveServer) -> None:
    api = busy_server.api.new_user("busy")
    agent_id = api.deploy(pack_agent(SLEEPER))
    answers: list[Answer] = []

    def run() -> None:
        answers.append(api.execute(agent_id, {"seconds": 30}))

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(executions(api, "running")) == 8, "eight executions to run")
    wait_for(lambda: len(executions(api, "pending")) == 2, "two executions to wait")

    login = {"username": "busy", "password": "correct horse"}
    waiting, running = executions(api, "pending")[0], executions(api, "running")
    calls: dict[str, Callable[[], Answer]] = {
        "health": lambda: api.call("GET", "/health"),
        "login": lambda: api.call("POST", "/api/v1/auth/login", login),
        "agents": lambda: api.call("GET", "/api/v1/agents"),
        "executions": lambda: api.call("GET", "/api/v1/runtime/executions"),
        "cancel": lambda: api.call("POST", f"/api/v1/runtime/executions/{waiting}/cancel"),
        "kill": lambda: api.call("POST", f"/api/v1/runtime/executions/{running[0]}/cancel"),
    }
    for name, call in calls.items():
        started = time.monotonic()
        answer = call()
        seconds = time.monotonic() - started
        assert answer.status == 200, (name, answer.body)
        # Not a measurement: a server that waits for a slot here would take 30 seconds.
        assert seconds < 10, f"{name} took {seconds:.1f} s"

    for number in executions(api, "running", "pending"):
        answer = api.call("POST", f"/api/v1/runtime/executions/{number}/cancel")
        assert answer.json["status"] == "cancelled"
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [201] * 10
    assert {answer.json["status"] for answer in answers} == {"cancelled"}
    assert executions(api, "running", "pending") == []


def test_more_callers_than_places_are_told_to_come_back(tmp_path: Path) -> None:
    settings = {"WORKER_CONCURRENCY": "1", "EXECUTION_QUEUE_SIZE": "1"}
    with LiveServer(tmp_path / "data", settings=settings) as live:
        api = live.api.new_user("crowd")
        agent_id = api.deploy(pack_agent(SLEEPER))
        threads = [
            threading.Thread(target=api.execute, args=(agent_id, {"seconds": 30})) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: executions(api, "running") and executions(api, "pending"), "a full house")
        refused = api.execute(agent_id, {"seconds": 0})
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert len(api.call("GET", "/api/v1/runtime/executions").json) == 2
        for number in executions(api, "pending", "running"):
            api.call("POST", f"/api/v1/runtime/executions/{number}/cancel")
        for thread in threads:
            thread.join()
        assert api.execute(agent_id, {"seconds": 0}).json["status"] == "completed"


def test_deleting_an_agent_kills_its_executions_and_files(busy_server: LiveServer) -> None:
    api = busy_server.api.new_user("deleter")
    agent_id = api.deploy(pack_agent(SLEEPER))
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(api.execute(agent_id, {"seconds": 30})))
    before = descendants(busy_server.process.pid)
    thread.start()
    wait_for(lambda: executions(api, "running"), "the execution to run")
    wait_for(lambda: descendants(busy_server.process.pid) != before, "the child")
    assert api.call("DELETE", f"/api/v1/agents/{agent_id}").status == 204
    thread.join()
    assert answers[0].status == 404  # what it would have told is gone with the agent
    assert descendants(busy_server.process.pid) == before
    assert executions(api, "cancelled") == []
    left = [path for path in busy_server.data.rglob("*") if path.name == str(agent_id)]
    assert left == []


def test_a_client_that_goes_away_does_not_stop_its_execution(api: Api) -> None:
    agent_id = api.deploy(pack_agent(SLEEPER))
    with pytest.raises(TimeoutError):
        api.call(
            "POST",
            f"/api/v1/runtime/{agent_id}/execute",
            {"payload": {"seconds": 1}},
            timeout=0.2,
        )
    wait_for(lambda: executions(api, "completed"), "the execution to complete")


def test_two_uploads_at_once_get_two_versions(api: Api) -> None:
    agent_id = api.new_agent()
    answers: list[Answer] = []
    archive = pack_agent(NORMAL)
    threads = [
        threading.Thread(target=lambda: answers.append(api.upload(agent_id, archive)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.json["version"] for answer in answers) == [f"v{n}" for n in range(1, 7)]
    assert len({answer.json["tarball_path"] for answer in answers}) == 6
    for answer in answers:
        assert api.wait_for_build(agent_id, answer.json["id"])["status"] == "ready"
    newest = max(answer.json["id"] for answer in answers)
    agent = api.call("GET", f"/api/v1/agents/{agent_id}").json
    assert (agent["status"], agent["current_version_id"]) == ("ready", newest)


@pytest.mark.slow
def test_a_burst_of_executions_loses_none(api: Api) -> None:
    agent_id = api.deploy(pack_agent(NORMAL))
    answers: list[Answer] = []

    def call() -> None:
        for number in range(8):
            answers.append(api.execute(agent_id, {"n": number}))

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 160
    assert {answer.json["status"] for answer in answers if answer.status == 201} == {"completed"}
    assert {answer.status for answer in answers} <= {201, 503}
    assert executions(api, "pending", "running") == []
