"""Measures how long a write takes when many write at once, another program among them.

    .venv/bin/python -m bench.writers [--seconds N] [--writers N] [--folder DIR]

So many threads write small rows as fast as they can, as a busy server's do, and a second process
writes to the same file at the same pace as one of them. Printed are the writes a second, the
median, 99th percentile and longest write of the threads, and how often anybody was told that the
database is locked. `--folder` says on which disk; a temporary folder may lie in memory.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from peewee import OperationalError

from anymind_lite.clock import utc_now
from anymind_lite.database import open_database, write_transaction
from anymind_lite.models import User

NAME = "anymind.sqlite3"
OTHER = "--other"


@dataclass
class Seen:
    """What writers saw: seconds of every write, and errors of the lock."""

    seconds: list[float] = field(default_factory=list)
    lock_errors: int = 0

    def write(self, name: str, number: int) -> None:
        """Write one row."""
        started_at = time.perf_counter()
        try:
            insert(f"{name}-{number}")
        except OperationalError:
            self.lock_errors += 1
        self.seconds.append(time.perf_counter() - started_at)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument(OTHER, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.other is not None:
        write_as_another(arguments.other, arguments.seconds)
        return
    for has_other in (False, True):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(Path(folder) / NAME, arguments.writers, arguments.seconds, has_other=has_other)


def measure(path: Path, writers: int, seconds: float, *, has_other: bool) -> None:
    """Have all write, and print what they saw."""
    opened = open_database(path)
    try:
        seen = Seen()
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=write_until, args=(deadline, seen, str(number)))
            for number in range(writers)
        ]
        other = start_other(path, seconds) if has_other else None
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = other.communicate()[0].strip() if other is not None else "none"
    finally:
        opened.close_all()
    report(f"{writers} writers, another process: {told}", seen, seconds)


def start_other(path: Path, seconds: float) -> "subprocess.Popen[str]":
    """Start the second process."""
    command = [sys.executable, "-m", "bench.writers", OTHER, str(path), "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write_as_another(path: Path, seconds: float) -> None:
    """Be the second process."""
    opened = open_database(path)
    seen = Seen()
    write_until(time.monotonic() + seconds, seen, "other")
    opened.close_all()
    print(f"{len(seen.seconds)} writes, {seen.lock_errors} lock errors")


def write_until(deadline: float, seen: Seen, name: str) -> None:
    """Write row after row."""
    number = 0
    while time.monotonic() < deadline:
        seen.write(name, number)
        number += 1


def insert(name: str) -> None:
    """Write one row, durably."""
    with write_transaction():
        User.create(email=name, username=name, password_hash="x", created_at=utc_now())


def report(title: str, seen: Seen, seconds: float) -> None:
    """Print one line."""
    cuts = statistics.quantiles(seen.seconds, n=100)
    print(
        f"{title}: {len(seen.seconds) / seconds:,.0f}/s, median {cuts[49] * 1000:.1f}, "
        f"p99 {cuts[98] * 1000:.1f}, longest {max(seen.seconds) * 1000:.1f} ms, "
        f"{seen.lock_errors} lock errors"
    )


if __name__ == "__main__":
    main()
