"""Suite `writers`: sixteen threads that write all the time, and a second process that does too.

A write is a small durable transaction, as a request makes one. Run as a program it is that second
process: `python -m bench.writers DATABASE SECONDS`.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from peewee import OperationalError

from anymind_lite.clock import iso_format, utc_now
from anymind_lite.database import database, open_database, write_transaction
from bench.figures import Findings, percentile
from bench.servers import ROOT
from tests.many_rows import fill

THREADS = 16
LONGEST = f"{THREADS} writers and a second process: longest write"
ERRORS = f"{THREADS} writers and a second process: lock errors"


class Writer:
    """Writes on as many threads as asked, and counts what SQLite refused."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.refused = 0
        self._lock = threading.Lock()

    def run(self, seconds: float, *, threads: int) -> None:
        """Write for so long."""
        deadline = time.perf_counter() + seconds
        started = [threading.Thread(target=self._write, args=(deadline,)) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    def _write(self, deadline: float) -> None:
        times, refused = [], 0
        while time.perf_counter() < deadline:
            began_at = time.perf_counter()
            try:
                write_once()
            except OperationalError:
                refused += 1
            times.append(time.perf_counter() - began_at)
        with self._lock:
            self.times += times
            self.refused += refused


def write_once() -> None:
    """Carry out one small transaction."""
    with write_transaction():
        database.execute_sql("UPDATE user SET full_name = ?", (iso_format(utc_now()),))


def measure(seconds: float, findings: Findings, say: Callable[[str], None]) -> None:
    """Write with both; add the longest write of either, what was refused, and the pace."""
    say(f"{THREADS} threads and a second process write for {seconds:g} s")
    with tempfile.TemporaryDirectory() as data:
        path = Path(data) / "anymind.sqlite3"
        fill(path)
        other = subprocess.Popen(
            [sys.executable, "-m", "bench.writers", str(path), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        own = write_for(path, seconds, threads=THREADS)
        theirs = json.loads(other.communicate()[0])
    times = own["times"] + theirs["times"]
    findings.add(LONGEST, max(times) * 1000, "ms")
    findings.add("the same: p99", percentile(times, 0.99) * 1000, "ms")
    findings.add("the same: writes a second", len(times) / seconds, "/s")
    findings.add(ERRORS, own["refused"] + theirs["refused"], "")


def write_for(path: Path, seconds: float, *, threads: int) -> dict[str, list[float] | int]:
    """Open a database and write; return the seconds of each write, and how many were refused."""
    opened = open_database(path)
    try:
        writer = Writer()
        writer.run(seconds, threads=threads)
    finally:
        opened.close_all()
    return {"times": writer.times, "refused": writer.refused}


if __name__ == "__main__":
    print(json.dumps(write_for(Path(sys.argv[1]), float(sys.argv[2]), threads=1)))
