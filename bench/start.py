"""Compares a start of the server, up to its first answer, with `python -c pass`; weighs it idle.

    .venv/bin/python -m bench.start [--rounds N] [--commands]

Each round starts Python with nothing to do, then `run.py serve` on a free port and a data folder
that exists, asks for /health once, and kills it. Both are timed by the clock and by the processor
time that they had used by then, which other load on the machine disturbs less; the figures are the
ratios of the medians. The server's includes the stub, the zygote and the reader. After the last
round one more server stands idle for a while, and the proportional share (PSS) of each of its
processes is read. With `--commands` the commands that start no server are compared as well.
"""

import argparse
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench.servers import ROOT, start_server

IDLE_SECONDS = 5.0
COMMANDS = (["--help"], ["config"], ["doctor"], ["backup", "--help"], ["test", "--help"])


@dataclass(frozen=True)
class Cost:
    """What one start took, in seconds."""

    wall: float
    processor: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--commands", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        subjects: dict[str, Callable[[], Cost]] = {
            "python -c pass": partial(run_to_end, ["-c", "pass"]),
            "serve": partial(run_to_first_answer, data),
        }
        if chosen.commands:
            for words in COMMANDS:
                command = [str(ROOT / "run.py"), *words]
                subjects[" ".join(words)] = partial(run_to_end, command, data)
        report(measure(chosen.rounds, subjects))
        with served(data) as pid:
            time.sleep(IDLE_SECONDS)
            report_memory(pid)


def run_to_end(words: list[str], data: str = "") -> Cost:
    """Run this Python with some words to its end."""
    environment = {**os.environ, "DATA_DIR": data, "LOG_LEVEL": "WARNING"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, env=environment, cwd=ROOT
    )
    _pid, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def run_to_first_answer(data: str) -> Cost:
    """Start a server and wait for its first 200."""
    started = time.perf_counter()
    with served(data) as pid:
        wall = time.perf_counter() - started
        return Cost(wall, sum(map(processor_seconds, family(pid))))


@contextmanager
def served(data: str) -> Iterator[int]:
    """Run a server that has answered /health; tell its process id."""
    server, url = start_server(data)
    try:
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        connection.request("GET", "/health")
        if connection.getresponse().status != 200:
            raise RuntimeError("the server is not healthy")
        yield server.pid
        connection.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def processor_seconds(pid: int) -> float:
    """Return what all threads of a process have used; /proc/PID/stat counts in 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(rounds: int, subjects: dict[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Return the costs of every subject's every round, taken in turn; the first is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, subject in subjects.items():
            cost = subject()
            if number:
                costs[name].append(cost)
    return costs


def report(costs: dict[str, list[Cost]]) -> None:
    """Print medians, and how they compare with the first."""
    base = median(next(iter(costs.values())))
    for name, all_of_it in costs.items():
        one = median(all_of_it)
        print(
            f"{name:16} clock {one.wall * 1000:7.1f} ms ({one.wall / base.wall:5.1f})"
            f"   processor {one.processor * 1000:7.1f} ms ({one.processor / base.processor:5.1f})"
        )


def median(costs: list[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        statistics.median(one.wall for one in costs),
        statistics.median(one.processor for one in costs),
    )


def report_memory(pid: int) -> None:
    """Print the proportional share of every process, and of all."""
    shares = {one: pss_kilobytes(one) for one in family(pid)}
    for one, kilobytes in shares.items():
        words = Path(f"/proc/{one}/cmdline").read_bytes().decode().split("\0")
        name = next((Path(word).name for word in words if word.endswith(".py")), words[0])
        print(f"{name:16} {kilobytes / 1024:6.1f} MB")
    print(f"{'idle PSS':16} {sum(shares.values()) / 1024:6.1f} MB")


def pss_kilobytes(pid: int) -> int:
    """Return the proportional set size (proc(5), smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no PSS of {pid}")


if __name__ == "__main__":
    main()
