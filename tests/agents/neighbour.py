"""The neighbour: an honest execution of another user that notices whatever is done to it."""

import http.client
import threading
import time
from typing import Any

from tests.live_server import Api, pack_agent
from tests.processes import descendants
from tests.waiting import wait_for

SECONDS = 2.5
# Enough of it left for an attack to find it running.
_SECONDS_LEFT = 0.7

SOURCE = '''
import os, resource, signal, sys, threading, time

LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]


def look():
    """Everything of a process that somebody else could turn."""
    return {
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "policy": os.sched_getscheduler(0),
        "limits": [resource.getrlimit(getattr(resource, name)) for name in LIMITS],
        "group": [os.getpgid(0), os.getsid(0)],
        "folder": [os.getcwd(), sorted(os.listdir("."))],
        "environment": dict(os.environ),
        "kept": open("kept.txt").read(),
        "code": open(__file__).read(),
    }


def handle(payload):
    signals = []
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGXCPU}:
        signal.signal(number, lambda number, frame: signals.append(number))
    held = payload["secret"].encode()
    with open("kept.txt", "w") as file:
        file.write(payload["secret"])
    beats, disturbed, before = 0, [], look()
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # tells that it is ready
    end = time.monotonic() + payload["seconds"]
    while time.monotonic() < end and not disturbed:
        time.sleep(0.02)
        beats += 1
        now = look()
        disturbed += [key for key in before if before[key] != now[key]]
        disturbed += [f"signal {number}" for number in signals]
        if held.decode() != payload["secret"]:
            disturbed.append("memory")
    return {"beats": beats, "disturbed": disturbed}
'''


class Neighbour:
    """Keeps an execution of the neighbour running while it is asked to."""

    def __init__(self, api: Api, server_pid: int, secret: str) -> None:
        self._api = api
        self._server_pid = server_pid
        self._payload = {"seconds": SECONDS, "secret": secret}
        self.agent_id = api.deploy(pack_agent(SOURCE), "neighbour")
        self._thread: threading.Thread | None = None
        self._row: dict[str, Any] = {}
        self._ends_at = 0.0
        self._seen_by: list[str] = []
        self.pids: set[int] = set()

    def be_running(self, for_whom: str) -> int:
        """Make sure that it runs for a while yet; return the process of its agent."""
        if time.monotonic() > self._ends_at - _SECONDS_LEFT:
            self.finish()
            self._start()
        self._seen_by.append(for_whom)
        return max(self.pids, key=_threads)

    def _start(self) -> None:
        before = descendants(self._server_pid)
        busy = {pid for pid in before if _threads(pid) > 1}
        self._ends_at = time.monotonic() + SECONDS
        self._thread = threading.Thread(target=self._execute)
        self._thread.start()

        def look() -> set[int]:
            # A clone of its template was there before; what is new then is the next one.
            after = descendants(self._server_pid)
            running = {pid for pid in after if _threads(pid) > 1} - busy
            return (after - before) | running if running else set()

        self.pids = wait_for(look, "the neighbour to run")

    def _execute(self) -> None:
        try:
            answer = self._api.execute(self.agent_id, self._payload)
        except (OSError, http.client.HTTPException) as exc:
            self._row = {"status": f"no answer: {exc}"}
            return
        self._row = answer.json if isinstance(answer.json, dict) else {"status": answer.status}

    def finish(self) -> None:
        """Wait for its end; it must tell that nothing was done to it."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, seen_by, self._seen_by = None, self._seen_by, []
        self.pids = set()
        output = self._row.get("output_data") or {}
        assert self._row["status"] == "completed", (seen_by, self._row)
        assert output["disturbed"] == [], (seen_by, output)
        assert output["beats"] > 2, (seen_by, output)

    def abandon(self) -> None:
        """Wait for its end, whatever it was."""
        if self._thread is not None:
            self._thread.join()

    def complaints(self) -> list[str]:
        """Tell whether it ended before its time."""
        is_due = self._thread is not None and time.monotonic() < self._ends_at - 0.1
        if is_due and self._thread is not None and not self._thread.is_alive():
            return [f"the neighbour ended early: {self._row}"]
        return []


def _threads(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
    except (OSError, StopIteration):
        return 0
