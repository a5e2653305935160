"""Measures what grows with the number of executions, and what must not.

    .venv/bin/python -m bench.growth [--executions N] [--queued N]

Makes two databases, of a thousand executions and of N, and serves each: how long a start takes
until the first answer, and the median and worst time of every list. Then retention removes all but
the newest of the large one, while another thread writes: how long that one waits at most. The last
part does the same for rows of a megabyte.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from anymind_lite.database import open_database
from anymind_lite.services.retention import Keep, Retention
from bench.writers import write_once as write_something_new
from tests.many_rows import fill

ROOT = Path(__file__).resolve().parent.parent
PROGRAM: Sequence[str] = (sys.executable, str(ROOT / "run.py"))
ROUNDS = 60
LISTS = {
    "newest 20": "runtime/executions?limit=20",
    "of an agent": "runtime/executions?agent_id=3&limit=20",
    "of a version": "runtime/executions?agent_version_id=3&limit=20",
    "failed": "runtime/executions?status=failed&limit=20",
    "before an id": "runtime/executions?before_id={middle}&limit=20",
    "agent logs": "logs/3?limit=20",
    "agents": "agents?limit=20",
    "versions": "agents/3/versions?limit=20",
    "one execution": "runtime/executions/{middle}",
    "skip to the middle": "runtime/executions?skip={middle}&limit=20",
    "logs, skip": "logs/3?skip={tenth}&limit=20",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--queued", type=int, default=10_000)
    arguments = parser.parse_args()
    few = measure_server(1000)
    many = measure_server(arguments.executions)
    print(f"\n{'':20} {'1,000':>12} {arguments.executions:>12,}   ratio (medians, ms)")
    for name in few:
        print(f"{name:20} {few[name]:12.2f} {many[name]:12.2f}   {many[name] / few[name]:.2f}")
    measure_start(queued=arguments.queued)
    measure_retention("small rows", arguments.executions, "")
    measure_retention("rows of 1 MB", 300, "x" * (1 << 20))


def measure_server(executions: int) -> dict[str, float]:
    """Serve a database; return the median of each request in milliseconds, and the start's."""
    with tempfile.TemporaryDirectory() as data:
        key = fill(Path(data) / "anymind.sqlite3", executions=executions)
        place = {"middle": executions // 2, "tenth": executions // 20}
        with Served(data) as served:
            found = {"start": served.start_seconds * 1000}
            urls = {name: served.url(path.format(**place)) for name, path in LISTS.items()}
            times = measure_in_turn({name: getter(url, key) for name, url in urls.items()})
        return found | times


def measure_in_turn(actions: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median of each action, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(each) for name, each in times.items()}


def getter(url: str, key: str) -> Callable[[], None]:
    """Return what asks for an address once."""
    request = urllib.request.Request(url, headers={"X-API-Key": key})

    def get() -> None:
        with urllib.request.urlopen(request) as answer:
            answer.read()

    return get


class Served:
    """`run.py serve` on a data folder."""

    def __init__(self, data: str) -> None:
        self._data = data

    def __enter__(self) -> "Served":
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0", "--data", self._data],
            env=os.environ | {"LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout is None:
            raise RuntimeError("no output")
        for line in self._process.stdout:
            if line.startswith("Serving at "):
                self._base = line.split()[2]
                break
        with urllib.request.urlopen(f"{self._base}/health") as answer:
            answer.read()
        self.start_seconds = time.perf_counter() - started
        return self

    def url(self, path: str) -> str:
        """Return the address of a path of the API."""
        return f"{self._base}/api/v1/{path}"

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()


def measure_start(*, queued: int) -> None:
    """Print how long a start takes beside many queued builds, with and without them."""
    for count in (0, queued):
        with tempfile.TemporaryDirectory() as data:
            fill(Path(data) / "anymind.sqlite3", queued=count)
            # The builds fail, for the artifacts are missing: as fast as a build can be.
            (Path(data) / "artifacts").mkdir()
            with Served(data) as served:
                print(f"start with {count:,} queued builds: {served.start_seconds * 1000:.0f} ms")


def measure_retention(title: str, executions: int, payload: str) -> None:
    """Print how fast rows go, and how long another writer waits at most meanwhile."""
    with tempfile.TemporaryDirectory() as data:
        path = Path(data) / "anymind.sqlite3"
        fill(path, executions=executions)
        opened = open_database(path)
        try:
            if payload:
                opened.execute_sql("UPDATE execution SET input_data = ?", (payload,))
            alone = writes_until(time.perf_counter() + 1.0)
            sweep_and_write(title, alone)
        finally:
            opened.close_all()


def sweep_and_write(title: str, alone: list[float]) -> None:
    """Sweep beside a thread that writes all the time."""
    ended = threading.Event()
    waits: list[float] = []
    writer = threading.Thread(target=lambda: waits.extend(writes_until_set(ended)))
    writer.start()
    started = time.perf_counter()
    removed = Retention(Keep(days=0, count=10)).sweep()
    seconds = time.perf_counter() - started
    ended.set()
    writer.join()
    print(f"retention, {title}: {removed:,} rows in {seconds:.1f} s, {removed / seconds:,.0f}/s")
    for name, each in (("alone", alone), ("beside it", waits)):
        cuts = statistics.quantiles(each, n=1000)
        print(
            f"  a write {name}: median {cuts[499]:.1f}, p99 {cuts[989]:.1f}, "
            f"worst {max(each):.1f} ms of {len(each):,}"
        )


def writes_until(deadline: float) -> list[float]:
    """Write until then; return what each took, in milliseconds."""
    times = []
    while time.perf_counter() < deadline:
        times.append(write_once())
    return times


def writes_until_set(ended: threading.Event) -> list[float]:
    """Write until told, with a pause between, as requests come."""
    times = []
    while not ended.wait(0.002):
        times.append(write_once())
    return times


def write_once() -> float:
    """Carry out one small transaction; return what it took, in milliseconds."""
    started = time.perf_counter()
    write_something_new()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
