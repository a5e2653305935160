"""Suite `builds`: how long an upload waits for its build, and until it can be executed."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Findings, percentile
from bench.servers import ROOT, new_agent, pack, serving, upload, wait_for_build

WAIT = "enqueue to build start, p95"
EXECUTABLE = "upload to executable, p95"
_HELLO = ROOT / "examples" / "hello"
_PROGRAM = ROOT / "bench" / "programs" / "stamping_server.py"
_POLL_SECONDS = 0.001


def measure(uploads: int, findings: Findings, say: Callable[[str], None]) -> None:
    """Upload again and again, each when the one before is ready; add the percentiles."""
    say(f"uploading {uploads} times")
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stamps = folder / "stamps"
        program = (sys.executable, str(_PROGRAM), str(stamps))
        with serving(folder / "data", program=program) as (_server, client, _url):
            agent_id, archive = new_agent(client, "hello"), pack(_HELLO)
            for _ in range(uploads):
                began_at = time.perf_counter()
                version = upload(client, agent_id, archive)
                wait_for_build(client, agent_id, version["id"], pause_seconds=_POLL_SECONDS)
                seconds.append(time.perf_counter() - began_at)
        waits = read_waits(stamps.read_text(encoding="ascii"))
    findings.add(WAIT, percentile(waits, 0.95) * 1000, "ms")
    findings.add(EXECUTABLE, percentile(seconds, 0.95) * 1000, "ms")


def read_waits(stamps: str) -> list[float]:
    """Return the seconds from each version's first hint to its first claim.

    A line is `enqueued` or `claimed`, a version's id and an instant of the monotonic clock.
    """
    first: dict[tuple[str, str], float] = {}
    for line in stamps.splitlines():
        what, version, instant = line.split()
        first.setdefault((what, version), float(instant))
    return [
        instant - first["enqueued", version]
        for (what, version), instant in first.items()
        if what == "claimed"
    ]
