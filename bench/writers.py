"""Suite `writers`: sixteen threads that write all the time, and a second process that does too.

A write is a small durable transaction, as a request makes one. Run as a program it is that second
process: `python -m bench.writers DATABASE SECONDS`.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from peewee import OperationalError

from anymind_lite.database import database, open_database, write_transaction
from bench.figures import Findings, percentile
from bench.servers import ROOT
from tests.many_rows import fill

THREADS = 16
LONGEST = f"{THREADS} writers and a second process: longest write"
ERRORS = f"{THREADS} writers and a second process: lock errors"


@dataclass
class Written:
    """The seconds of each write, and how many were refused."""

    times: list[float] = field(default_factory=list)
    refused: int = 0


def write_once() -> None:
    """Carry out one small transaction.

    With a new value each time: SQLite writes no page whose content stays the same.
    """
    with write_transaction():
        database.execute_sql("UPDATE user SET full_name = ?", (secrets.token_hex(8),))


def measure(seconds: float, findings: Findings, say: Callable[[str], None]) -> None:
    """Write with the threads alone, then beside the other process; add what each met."""
    say(f"{THREADS} threads write for {seconds:g} s, then with a second process")
    with tempfile.TemporaryDirectory() as data:
        path = Path(data) / "anymind.sqlite3"
        fill(path)
        alone = write_for(path, seconds, threads=THREADS)
        with subprocess.Popen(
            [sys.executable, "-m", "bench.writers", str(path), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as other:
            own = write_for(path, seconds, threads=THREADS)
            theirs = Written(**json.loads(other.communicate()[0]))
    for name, each in (("alone", alone), ("the threads", own), ("the second process", theirs)):
        findings.add(f"writers, {name}: longest write", max(each.times) * 1000, "ms")
        findings.add(f"writers, {name}: p99", percentile(each.times, 0.99) * 1000, "ms")
        findings.add(f"writers, {name}: writes a second", len(each.times) / seconds, "/s")
    findings.add(LONGEST, max(own.times + theirs.times) * 1000, "ms")
    findings.add(ERRORS, own.refused + theirs.refused, "")


def write_for(path: Path, seconds: float, *, threads: int) -> Written:
    """Open a database and write for so long, on so many threads."""
    opened = open_database(path)
    try:
        written = [Written() for _ in range(threads)]
        deadline = time.perf_counter() + seconds
        started = [threading.Thread(target=_write, args=(each, deadline)) for each in written]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    finally:
        opened.close_all()
    times = [one for each in written for one in each.times]
    return Written(times, sum(each.refused for each in written))


def _write(written: Written, deadline: float) -> None:
    while time.perf_counter() < deadline:
        began_at = time.perf_counter()
        try:
            write_once()
        except OperationalError:
            written.refused += 1
        written.times.append(time.perf_counter() - began_at)


if __name__ == "__main__":
    found = write_for(Path(sys.argv[1]), float(sys.argv[2]), threads=1)
    print(json.dumps({"times": found.times, "refused": found.refused}))
