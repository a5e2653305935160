"""Counts what a request executes, where a time would be noise: the server's part of it alone.

    python -m bench.instructions [--write]

Counted are, on the thread that serves the request: bytecode instructions of Python and calls of C
functions, which depend on the version of Python; statements of SQLite and the steps of its virtual
machine, which depend on its version and on nothing else. A backend with some rows is asked through
its WSGI application, without a socket and without a test client. No agent runs: in place of the
sandbox stands what returns at once, always the same. The least of several rounds counts.
instructions.json holds what was counted before, for each version of Python.
"""

import argparse
import io
import json
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask

from anymind_lite.app import create_app
from anymind_lite.backend import Backend
from anymind_lite.config import load_settings
from anymind_lite.database import database, write_transaction
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import Job
from tests.many_rows import AGENTS, fill

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.10
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Request:
    """One request and the status of its answer; with a body it is a POST."""

    path: str
    status: str = "200"
    body: bytes = b""

    @property
    def has_right_key(self) -> bool:
        """Tell whether it is sent with the user's key."""
        return self.status != "401"


REQUESTS = {
    "get an agent": Request("/api/v1/agents/3"),
    "list agents": Request("/api/v1/agents?limit=20"),
    "list executions": Request("/api/v1/runtime/executions?limit=20"),
    "get an execution": Request("/api/v1/runtime/executions/500"),
    "logs of an agent": Request("/api/v1/logs/3?limit=20"),
    "refuse a wrong key": Request("/api/v1/agents/3", "401"),
    "health": Request("/health"),
    # The last, as it adds rows.
    "execute an agent": Request(
        "/api/v1/runtime/3/execute", "201", b'{"payload":{"text":"a payload as they are"}}'
    ),
}
STEPS = "SQLite steps"
KINDS = ("bytecodes", "calls of C", "statements", STEPS)
_RETURNED = Outcome(
    reason=StopReason.RETURNED,
    message="",
    logs="what it printed\n",
    duration_ms=3,
    cpu_ms=1,
    max_rss_kb=14200,
    details={"result": {"words": 9}},
    tier=Tier.A,
    layers=("namespaces", "rlimits", "seccomp"),
    is_warm=True,
    start_ms=0.9,
    wall_ms=1.8,
)
_MONITORING: Any = getattr(sys, "monitoring", None)
_WARM_UP_ROUNDS = 3  # which fill caches
_ROUNDS = 3

Counts = dict[str, int]


def main() -> None:
    """Count, print, and compare or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="make this the new baseline")
    wants_to_write = parser.parse_args().write
    counts = count_requests()
    _print(counts, baseline())
    if wants_to_write:
        write_baseline(counts)
    elif not baseline():
        sys.exit(f"Nothing was counted with Python {PYTHON} yet: --write does that.")
    elif found := regressions(counts, baseline()):
        sys.exit("\n".join(found))


def baseline() -> dict[str, Counts]:
    """Return what was counted with this version of Python; empty where it never was.

    Steps of another version of SQLite are left out: its plans may be others.
    """
    known = _read().get(PYTHON, {"SQLite": "", "requests": {}})
    is_same = known["SQLite"] == sqlite3.sqlite_version
    kinds = [kind for kind in KINDS if is_same or kind != STEPS]
    return {
        request: {kind: counts[kind] for kind in kinds}
        for request, counts in known["requests"].items()
    }


def _read() -> dict[str, Any]:
    everything: dict[str, Any] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return everything


def write_baseline(counts: dict[str, Counts]) -> None:
    """Write what was counted, beside that of other versions of Python."""
    everything = {**_read(), PYTHON: {"SQLite": sqlite3.sqlite_version, "requests": counts}}
    text = json.dumps(everything, indent=1, sort_keys=True)
    BASELINE.write_text(f"{text}\n", encoding="utf-8")


def regressions(counts: dict[str, Counts], before: dict[str, Counts]) -> list[str]:
    """Return a sentence for each count that grew by more than the tolerance."""
    return [
        f"{request}: {counts[request][kind]:,} {kind}, {was:,} before"
        for request, kinds in before.items()
        for kind, was in kinds.items()
        if counts[request][kind] > was * (1 + TOLERANCE)
    ]


def _print(counts: dict[str, Counts], before: dict[str, Counts]) -> None:
    print(f"{'':20}" + "".join(f"{kind:>26}" for kind in KINDS))
    for request, kinds in counts.items():
        shown = [_beside(kinds[kind], before.get(request, {}).get(kind)) for kind in KINDS]
        print(f"{request:20}" + "".join(f"{text:>26}" for text in shown))


def _beside(now: int, was: int | None) -> str:
    return f"{now:,}" if not was else f"{now:,} ({now / was - 1:+.1%})"


def count_requests() -> dict[str, Counts]:
    """Return the counts of each request."""
    with _application() as (app, key):
        return {name: _least(request, app, key) for name, request in REQUESTS.items()}


def _least(request: Request, app: Flask, key: str) -> Counts:
    sent_key = key if request.has_right_key else f"{key[:-1]}_"
    for _ in range(_WARM_UP_ROUNDS):
        _count(partial(_ask, app, request, sent_key))
    rounds = [_count(partial(_ask, app, request, sent_key)) for _ in range(_ROUNDS)]
    least = {kind: min(counts[kind] for counts in rounds) for kind in KINDS}
    if not least["bytecodes"]:
        raise RuntimeError("this Python does not tell what it executes")
    return least


@contextmanager
def _application() -> Iterator[tuple[Flask, str]]:
    """Serve a database of a thousand executions, without a socket."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"DATA_DIR": folder, "LOG_LEVEL": "ERROR"}
        key = fill(Path(folder) / "anymind.sqlite3", executions=1000)
        (Path(folder) / "artifacts").mkdir()
        backend = Backend(load_settings(Path(folder), environ=environ).settings)
        backend.start()
        _stand_in_for_sandbox(backend)
        try:
            yield create_app(backend), key
        finally:
            backend.stop()


def _stand_in_for_sandbox(backend: Backend) -> None:
    """Have every job return at once; the rows of many_rows.py have no code either."""

    def run(_job: Job, _payload: bytes, *, is_wanted: Callable[[], bool], **_: object) -> Outcome:
        if not is_wanted():
            raise RuntimeError("an execution that nobody cancelled is not wanted")
        return _RETURNED

    backend.sandbox.run = run  # type: ignore[method-assign, assignment]
    for number in range(1, AGENTS + 1):
        backend.store.code_dir(number, number).mkdir(parents=True)


def _ask(app: Flask, request: Request, key: str) -> None:
    """Send one request through the WSGI application, read all of the answer, check its status."""
    path, _, query = request.path.partition("?")
    environ = {
        "REQUEST_METHOD": "POST" if request.body else "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_API_KEY": key,
        "wsgi.url_scheme": "http",
        "CONTENT_TYPE": "application/json" if request.body else "",
        "CONTENT_LENGTH": str(len(request.body)) if request.body else "",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
    }
    statuses: list[str] = []

    def begin(status: str, *_: object) -> Callable[[bytes], object]:
        statuses.append(status)
        return io.BytesIO().write

    answer: Any = app.wsgi_app(environ, begin)
    try:
        b"".join(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()
    if statuses[-1][:3] != request.status:
        raise RuntimeError(f"{request.path} is answered {statuses[-1]}")


def _count(action: Callable[[], None]) -> Counts:
    """Return what an action executes on this thread; in passes, as one would count the other."""
    counts = dict.fromkeys(KINDS, 0)
    count_bytecodes = _bytecodes_traced if _MONITORING is None else _bytecodes_monitored
    for counting in (count_bytecodes, _calls_counted, _sqlite_counted):
        with counting(counts):
            action()
    return counts


@contextmanager
def _bytecodes_monitored(counts: Counts) -> Iterator[None]:
    """Count as Python does it from 3.12 on; there, tracing misses what loops do (3.13)."""
    own_thread = threading.get_ident()

    def instruction(_code: object, _offset: int) -> None:
        counts["bytecodes"] += threading.get_ident() == own_thread

    tool, event = _MONITORING.PROFILER_ID, _MONITORING.events.INSTRUCTION
    _MONITORING.use_tool_id(tool, "bench")
    _MONITORING.register_callback(tool, event, instruction)
    _MONITORING.set_events(tool, event)
    try:
        yield
    finally:
        _MONITORING.set_events(tool, 0)
        _MONITORING.register_callback(tool, event, None)
        _MONITORING.free_tool_id(tool)


@contextmanager
def _bytecodes_traced(counts: Counts) -> Iterator[None]:
    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts["bytecodes"] += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


@contextmanager
def _calls_counted(counts: Counts) -> Iterator[None]:
    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        counts["calls of C"] += event == "c_call"

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@contextmanager
def _sqlite_counted(counts: Counts) -> Iterator[None]:
    connections = [database.connection()]
    with write_transaction(is_durable=False):
        connections.append(database.connection())  # the one that all writes go through

    def step() -> int:
        counts[STEPS] += 1
        return 0

    def statement(_text: str) -> None:
        counts["statements"] += 1

    for connection in connections:
        connection.set_progress_handler(step, 1)
        connection.set_trace_callback(statement)
    try:
        yield
    finally:
        for connection in connections:
            connection.set_progress_handler(None, 1)
            connection.set_trace_callback(None)


if __name__ == "__main__":
    main()
