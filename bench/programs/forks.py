"""Starts processes as fast as it can and times each: `KIND SECONDS` a line in, JSON a line out.

Small on purpose, as a fork copies the page tables of the one that forks.
"""

import json
import os
import sys
import time
from collections.abc import Callable


def main() -> None:
    """Answer until the input ends."""
    programs = {"true": ["/bin/true"], "python": [sys.argv[1], "-c", "pass"]}
    for line in sys.stdin:
        kind, seconds = line.split()
        start = (lambda: None) if kind == "fork" else becoming(programs[kind])
        print(json.dumps(start_for(start, float(seconds))), flush=True)


def becoming(command: list[str]) -> Callable[[], None]:
    """Return what turns this process into another program."""
    return lambda: os.execv(command[0], command)


def start_for(in_child: Callable[[], None], seconds: float) -> list[float]:
    """Start processes, one after another, for so long and at least one; return their seconds."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        began_at = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            try:
                in_child()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        times.append(time.perf_counter() - began_at)
        if status != 0:
            raise RuntimeError(f"the child failed: {status}")
    return times


main()
