"""What ended an execution is told by one word of a closed list, and told truly."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.models import ErrorCode
from tests.live_server import Answer, Api, LiveServer, pack
from tests.processes import children_by_script, descendants, find_zygote, only
from tests.waiting import DEADLINE_SECONDS, wait_for

SLEEPER = """import time
def handle(payload):
    print('begun')
    time.sleep(payload['seconds'])
    return {}
"""
IN_TWO_THREADS = """import threading, time
def handle(payload):
    threading.Thread(target=time.sleep, args=(payload['seconds'],), daemon=True).start()
    time.sleep(payload['seconds'])
    return {}
"""
IN_A_POOL = """from concurrent.futures import ThreadPoolExecutor
def handle(payload):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(bytearray, 10**10).result()
"""
# A build has more CPU time than a second-long execution.
# It leaves a file open, so that every run imports it again.
FAILS_AT_THE_SECOND_IMPORT = """import resource; left = open(__file__)
if resource.getrlimit(resource.RLIMIT_CPU)[0] == 2: raise ValueError('not today')
def handle(payload): pass
"""


def body(*lines: str) -> str:
    return "def handle(payload):\n" + "".join(f"    {line}\n" for line in lines)


# Source, what the manifest asks for, the code, a part of the message.
ENDS: dict[str, tuple[str, str, ErrorCode, str]] = {
    "sleeps": (
        body("import time; time.sleep(60)"), "timeout_seconds: 0.5",
        ErrorCode.TIMEOUT, "ran longer than 0.5 s",
    ),
    "computes in one thread": (
        body("while True: pass"), "timeout_seconds: 1",
        ErrorCode.TIMEOUT, "ran longer than 1 s",
    ),
    "one large value": (
        body("return len(bytearray(10**10))"), "",
        ErrorCode.OUT_OF_MEMORY, "more than 256 MB of memory",
    ),
    "in a pool's thread": (IN_A_POOL, "", ErrorCode.OUT_OF_MEMORY, "more than 256 MB of memory"),
    "while the result is written": (
        body("return ['x' * 20_000_000] * 6"), "memory_mb: 64",
        ErrorCode.OUT_OF_MEMORY, "more than 64 MB of memory",
    ),
    "a library's own MemoryError": (
        body("class Mine(MemoryError): pass", "raise Mine('array too big')"), "",
        ErrorCode.OUT_OF_MEMORY, "of memory",
    ),
    "mmap, whose error is another": (
        body("import mmap; mmap.mmap(-1, 1 << 32)"), "",
        ErrorCode.OUT_OF_MEMORY, "of memory",
    ),
    "many small objects": (
        "hoard = []\ndef handle(payload):\n    while True: hoard.append([len(hoard)])\n",
        "memory_mb: 64, timeout_seconds: 60",
        ErrorCode.OUT_OF_MEMORY, "more than 64 MB of memory",
    ),
    "large result": (
        body("return 'x' * 2_000_000"), "",
        ErrorCode.OUTPUT_TOO_LARGE, "The result is 2,000,014 bytes",
    ),
    "log flood": (
        body("while True: print('x' * 100_000)"), "timeout_seconds: 60",
        ErrorCode.OUTPUT_TOO_LARGE, "printed more than 16,777,216 bytes",
    ),
    "set": (body("return {'a': {1}}"), "", ErrorCode.NOT_JSON, "not JSON serializable"),
    "NaN": (body("return float('nan')"), "", ErrorCode.NOT_JSON, "not JSON compliant"),
    "endless": (body("a = []; a.append(a)", "return a"), "", ErrorCode.NOT_JSON, "is not valid"),
    "forged report": (
        body("import os; os.write(3, b'nonsense'); os._exit(0)"), "",
        ErrorCode.NOT_JSON, "is not valid JSON",
    ),
    "raises": (body("raise KeyError('city')"), "", ErrorCode.EXCEPTION, "KeyError: 'city' (main.p"),
    "raises at the import": (
        FAILS_AT_THE_SECOND_IMPORT, "timeout_seconds: 1",
        ErrorCode.EXCEPTION, "ValueError: not today (main.py, line 2)",
    ),
    "sys.exit": (body("import sys; sys.exit()"), "", ErrorCode.EXITED, "(exit code 0)"),
    "sys.exit with text": (body("import sys; sys.exit('no')"), "", ErrorCode.EXITED, "code 1)"),
    "os._exit": (body("import os; os._exit(0)"), "", ErrorCode.EXITED, "(exit code 0)"),
    "abort": (body("import os; os.abort()"), "", ErrorCode.KILLED_BY_SIGNAL, "SIGABRT"),
    "crash": (
        body("import ctypes; ctypes.string_at(0)"), "",
        ErrorCode.KILLED_BY_SIGNAL, "SIGSEGV",
    ),
    "kills itself": (
        body("import os; os.kill(os.getpid(), 9)"), "",
        ErrorCode.KILLED_BY_SIGNAL, "SIGKILL",
    ),
    "pretends to have used up its time": (
        body("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"), "",
        ErrorCode.KILLED_BY_SIGNAL, "SIGXCPU",
    ),
}  # fmt: skip


def archive(source: str, limits: str = "", more: str = "") -> bytes:
    manifest = f"name: test\nentrypoint: main:handle\nlimits: {{{limits}}}\n{more}"
    return pack({"anymind.yaml": manifest, "main.py": source})


@pytest.mark.parametrize("name", ENDS)
def test_what_an_agent_did_is_told(api: Api, name: str) -> None:
    source, limits, code, message = ENDS[name]
    row = api.execute(api.deploy(archive(source, limits))).json
    assert (row["status"], row["error_code"]) == ("failed", code), row
    assert message in row["error_message"]
    assert row["tier"] in ("A", "B", "C")
    assert "rlimits" in row["layers"]


@pytest.mark.parametrize(
    "lines",
    [
        ("try: bytearray(10**10)", "except MemoryError: return 'coped'"),
        (
            "import threading",
            "thread = threading.Thread(target=bytearray, args=(10**10,))",
            "thread.start(); thread.join()",
            "return 'coped'",
        ),
    ],
    ids=["caught", "in a thread of its own"],
)
def test_memory_that_an_agent_copes_without_ends_nothing(api: Api, lines: tuple[str, ...]) -> None:
    row = api.execute(api.deploy(archive(body(*lines)))).json
    assert (row["status"], row["error_code"]) == ("completed", None)
    assert row["output_data"] == {"result": "coped"}
    assert row["layers"]


# What is not the agent's doing --------------------------------------------------------------------


class Sleeping:
    """An agent's execution in a request of its own."""

    def __init__(self, api: Api, agent_id: int, status: str) -> None:
        self._api = api
        known = {row["id"] for row in rows_of(api)}
        self._answers: list[Answer] = []
        self._thread = threading.Thread(target=self._execute, args=(agent_id,))
        self._thread.start()
        self.id: int = wait_for(lambda: self._new(known, status), f"an execution to be {status}")

    def _execute(self, agent_id: int) -> None:
        try:
            self._answers.append(self._api.execute(agent_id, {"seconds": 25}))
        except OSError:
            pass  # the server was killed

    def _new(self, known: set[int], status: str) -> int:
        rows = [r for r in rows_of(self._api) if r["id"] not in known and r["status"] == status]
        return rows[0]["id"] if rows else 0

    def answer(self) -> Answer | None:
        """Return what the request was answered; None where the server had no time to."""
        self._thread.join(DEADLINE_SECONDS)
        return self._answers[0] if self._answers else None


def rows_of(api: Api) -> list[Any]:
    rows: list[Any] = api.call("GET", "/api/v1/runtime/executions").json
    return rows


def has_threads(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_of(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["error_code"]


@pytest.fixture
def one_at_a_time(tmp_path: Path) -> Iterator[LiveServer]:
    settings = {"WORKER_CONCURRENCY": "1", "SHUTDOWN_GRACE_SECONDS": "0"}
    with LiveServer(tmp_path / "data", settings=settings) as live:
        yield live


def run_and_wait(live: LiveServer) -> tuple[Api, Sleeping, Sleeping]:
    """Return one execution that runs and one that waits behind it."""
    api = live.api.new_user("sleeper")
    agent_id = api.deploy(archive(SLEEPER))
    before = descendants(live.process.pid)
    running = Sleeping(api, agent_id, "running")
    wait_for(lambda: descendants(live.process.pid) != before, "the agent to run")
    return api, running, Sleeping(api, agent_id, "pending")


def test_cancelled_whether_it_ran_or_waited(one_at_a_time: LiveServer) -> None:
    api, running, pending = run_and_wait(one_at_a_time)
    for one in (pending, running):
        path = f"/api/v1/runtime/executions/{one.id}"
        assert end_of(api.call("POST", f"{path}/cancel").json) == ("cancelled", "cancelled")
        answer = one.answer()
        assert answer is not None
        assert end_of(answer.json) == ("cancelled", "cancelled")
        row = api.call("GET", path).json
        assert (row["tier"] is None) == (one is pending)
        assert (row["layers"] == []) == (one is pending)


def test_a_server_that_stops_says_so_and_not_that_the_sandbox_failed(
    one_at_a_time: LiveServer,
) -> None:
    _api, running, pending = run_and_wait(one_at_a_time)
    assert one_at_a_time.stop() == 0
    with closing(sqlite3.connect(one_at_a_time.data / "anymind.sqlite3")) as database:
        found = database.execute(
            "SELECT id, status, error_code, error_message, tier IS NULL FROM execution"
        ).fetchall()
    assert sorted(found) == [
        (running.id, "failed", "server_restarted", "Interrupted by a server restart.", 0),
        (pending.id, "failed", "server_restarted", "The server is shutting down.", 1),
    ]
    for one in (running, pending):
        one.answer()


@pytest.mark.slow  # test_recovery.py holds the code, test_commands.py that a killed server tells
def test_a_server_that_was_killed_says_so_at_its_next_start(tmp_path: Path) -> None:
    data, settings = tmp_path / "data", {"WORKER_CONCURRENCY": "1"}
    live = LiveServer(data, settings=settings).start()
    try:
        api, running, pending = run_and_wait(live)
    finally:
        live.stop(signal.SIGKILL)
    for one in (running, pending):
        one.answer()
    with LiveServer(data, settings=settings) as again:
        found = rows_of(Api(again.url, api.headers))
    assert [end_of(row) for row in found] == [("failed", "server_restarted")] * 2


def test_a_sandbox_that_dies_is_the_servers_fault(one_at_a_time: LiveServer) -> None:
    api = one_at_a_time.api.new_user("witness")
    agent_id = api.deploy(archive(IN_TWO_THREADS))
    stub = only(children_by_script(one_at_a_time.process.pid, "stub.py"), "stubs")
    running = Sleeping(api, agent_id, "running")
    # A job that nobody had read would be handed over again. Only agent code starts a thread there.
    wait_for(lambda: any(map(has_threads, descendants(stub))), "the agent to have begun")
    # Nothing else: a clone that waited for its job may be the run itself.
    os.kill(find_zygote(stub) or stub, signal.SIGKILL)
    answer = running.answer()
    assert answer is not None
    assert end_of(answer.json) == ("failed", "sandbox_failure")
    assert answer.json["tier"] is not None
    assert api.execute(agent_id, {"seconds": 0}).json["status"] == "completed"


def test_no_slot_in_time_is_the_servers_fault(tmp_path: Path) -> None:
    settings = {
        "WORKER_CONCURRENCY": "1",
        "EXECUTION_QUEUE_TIMEOUT_SECONDS": "0.2",
        "SHUTDOWN_GRACE_SECONDS": "0",
    }
    with LiveServer(tmp_path / "data", settings=settings) as live:
        api = live.api.new_user("late")
        agent_id = api.deploy(archive(SLEEPER))
        running = Sleeping(api, agent_id, "running")
        assert api.execute(agent_id, {"seconds": 0}).status == 503
        row = rows_of(api)[0]
        assert end_of(row) == ("failed", "sandbox_failure")
        assert (row["tier"], row["layers"]) == (None, [])
        api.call("POST", f"/api/v1/runtime/executions/{running.id}/cancel")
        running.answer()
