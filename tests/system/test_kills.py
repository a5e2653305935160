"""kill -9 of every process of ours: what must end with it ends in a second, and work goes on."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import Api, LiveServer, pack
from tests.processes import (
    children,
    children_by_script,
    descendants,
    find_zygote,
    is_first_of_its_namespace,
    only,
)
from tests.waiting import DEADLINE_SECONDS, wait_for

# Whoever is found is of the run that is looked at: no version is kept imported beside it.
COLD = {"WARM_MEMORY_MB": "0"}
SURVIVAL_SECONDS = 1.0
_LOOK_MS = 10

MANIFEST = "name: test\nentrypoint: main:handle\nsubprocess: true\n"
PLAIN_MANIFEST = "name: test\nentrypoint: main:handle\n"
# It tells from its name, which is seen in /proc, that it has come to its own code.
PLAIN = """
import ctypes, time

def handle(payload):
    if payload:
        ctypes.CDLL(None).prctl(15, b"at-work")
        time.sleep(25)
    return "done"
"""
# A daemon that left its session, with a child, and one that will not be told to go.
WITH_CHILDREN = """
import ctypes, os, signal, time

def sleep():
    ctypes.CDLL(None).prctl(15, b"at-work")
    time.sleep(25)

def daemon():
    os.setsid()
    os.fork()
    sleep()

def stubborn():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sleep()

def handle(payload):
    if payload:
        for child in (daemon, stubborn):
            if os.fork() == 0:
                child()
        sleep()
    return "done"
"""
AGENTS = {"plain": (PLAIN_MANIFEST, PLAIN, 1), "with_children": (MANIFEST, WITH_CHILDREN, 4)}


def names_itself_at_work(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8") == "at-work\n"
    except OSError:
        return False  # it ended meanwhile


class Tree:
    """The processes of a server with one run in progress, by what they are."""

    def __init__(self, server: int, at_work: int) -> None:
        self.server = server
        self.stub = only(children_by_script(server, "stub.py"), "stubs")
        self.reader = only(children_by_script(server, "in_reader.py"), "readers")
        # Without namespaces the stub is the zygote.
        self.zygote = find_zygote(self.stub) or self.stub
        wait_for(lambda: self._count_at_work() == at_work, f"{at_work} processes to be at work")
        self.of_run = descendants(self.zygote)
        if not at_work:
            return
        inits = {pid for pid in self.of_run if is_first_of_its_namespace(pid)}
        # A run that may not start processes is one process, without an init; so is any run without
        # namespaces, but for what it starts.
        self.init = min(inits or children(self.zygote))

    def _count_at_work(self) -> int:
        return sum(map(names_itself_at_work, descendants(self.zygote)))

    def doomed_by(self, victim: str) -> set[int]:
        """Return who must end with a process."""
        below_server = {self.stub, self.zygote, *self.of_run}
        return {
            "server": {self.server, self.reader, *below_server},
            "reader": {self.reader},
            "stub": below_server,
            "zygote": below_server,
            "init": self.of_run,
        }[victim]


def seconds_until_all_ended(pids: set[int], kill: int) -> float:
    """Kill one; return after how long the last of all has ended.

    Time in which this process itself did not get to run is a loaded machine's, and left out.
    """
    poller = select.poll()
    pidfds = {os.pidfd_open(pid) for pid in pids}
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    started = before = time.monotonic()
    stalled = 0.0
    os.kill(kill, signal.SIGKILL)
    while pidfds and before - started < DEADLINE_SECONDS:
        for pidfd, _event in poller.poll(_LOOK_MS):
            poller.unregister(pidfd)
            pidfds.discard(pidfd)
            os.close(pidfd)
        now = time.monotonic()
        stalled += max(0.0, now - before - 2 * _LOOK_MS / 1000)
        before = now
    assert not pidfds, f"{len(pidfds)} of {len(pids)} processes survive"
    return before - started - stalled


@dataclass
class Execution:
    """One that was started and is awaited in another thread."""

    api: Api
    agent_id: int
    answers: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._execute)
        self._thread.start()

    def _execute(self) -> None:
        try:
            self.answers.append(self.api.execute(self.agent_id, {"sleep": True}).json)
        except (OSError, HTTPException):
            pass  # the server went away in the middle

    def row(self) -> Any:
        """Return how it ended; None if its server died."""
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "the execution hangs"
        return self.answers[0] if self.answers else None


def deploy(api: Api, kind: str) -> int:
    manifest, source, _count = AGENTS[kind]
    return api.deploy(pack({"anymind.yaml": manifest, "main.py": source}), name=kind)


@dataclass
class Ground:
    """A server whose sandbox is killed again and again, and its agents."""

    live: LiveServer
    api: Api
    agents: dict[str, int]

    def __post_init__(self) -> None:
        stub = only(children_by_script(self.live.process.pid, "stub.py"), "stubs")
        self.has_namespaces = find_zygote(stub) is not None

    def kill(self, victim: str, kind: str) -> tuple[float, Any, Tree]:
        """Kill while an execution runs; return the seconds, how it ended, and who there was."""
        execution = Execution(self.api, self.agents[kind])
        tree = Tree(self.live.process.pid, AGENTS[kind][2])
        seconds = seconds_until_all_ended(tree.doomed_by(victim), getattr(tree, victim))
        return seconds, execution.row(), tree

    def check_that_work_goes_on(self, kind: str) -> None:
        row = self.api.execute(self.agents[kind]).json
        assert (row["status"], row["output_data"]) == ("completed", {"result": "done"}), row


def possible_kinds(api: Api) -> list[str]:
    """Leave out the agent with children where none may start any."""
    tier = api.call("GET", "/api/v1/system/sandbox").json["tier"]
    return [kind for kind in AGENTS if tier == "A" or kind == "plain"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with LiveServer(tmp_path_factory.mktemp("kills") / "data", settings=COLD) as live:
        api = live.api.new_user("survivor")
        yield Ground(live, api, {kind: deploy(api, kind) for kind in possible_kinds(api)})


@pytest.mark.parametrize("kind", AGENTS)
def test_a_killed_server_is_survived_by_nobody(tmp_path: Path, kind: str) -> None:
    live = LiveServer(tmp_path / "data", settings=COLD).start()
    try:
        api = live.api.new_user("mourner")
        if kind not in possible_kinds(api):
            pytest.skip("processes are for namespaces alone")
        ground = Ground(live, api, {kind: deploy(api, kind)})
        seconds, row, _tree = ground.kill("server", kind)
    finally:
        live.stop(signal.SIGKILL)
    assert (row, seconds < SURVIVAL_SECONDS) == (None, True), seconds


WHAT_IS_SAID = {
    "stub": "The sandbox ended unexpectedly.",
    "zygote": "The sandbox ended unexpectedly.",
    "init": "The agent's process was ended by signal SIGKILL.",
}


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("victim", WHAT_IS_SAID)
def test_what_is_killed_takes_its_own_along_and_work_goes_on(
    ground: Ground, victim: str, kind: str
) -> None:
    if kind not in ground.agents:
        pytest.skip("processes are for namespaces alone")
    seconds, row, before = ground.kill(victim, kind)
    assert seconds < SURVIVAL_SECONDS
    assert (row["status"], row["error_message"]) == ("failed", WHAT_IS_SAID[victim])
    ground.check_that_work_goes_on(kind)
    has_new_zygote = before.zygote not in descendants(ground.live.process.pid)
    assert has_new_zygote == (victim != "init")


def held_by(pid: int) -> tuple[int, int]:
    """Return how many descriptors, but for connections to the database, and how many threads."""
    targets = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(os.readlink(fd))
        except OSError:
            pass  # closed meanwhile
    # Each thread of the server opens one of its own when it is first asked something.
    descriptors = [target for target in targets if "anymind.sqlite3" not in target]
    return len(descriptors), len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_killed_reader_is_replaced(ground: Ground) -> None:
    tree = Tree(ground.live.process.pid, 0)
    assert seconds_until_all_ended(tree.doomed_by("reader"), tree.reader) < SURVIVAL_SECONDS
    ground.agents["plain"] = deploy(ground.api, "plain")
    ground.check_that_work_goes_on("plain")


@pytest.mark.slow
def test_twenty_kills_leave_nothing_in_the_server(ground: Ground) -> None:
    pid = ground.live.process.pid
    ground.check_that_work_goes_on("plain")
    before = held_by(pid)
    kind = "with_children" if ground.has_namespaces else "plain"
    for number in range(20):
        victim = list(WHAT_IS_SAID)[number % 3]
        seconds, row, _tree = ground.kill(victim, kind)
        assert (row["error_message"], seconds < SURVIVAL_SECONDS) == (WHAT_IS_SAID[victim], True)
        ground.check_that_work_goes_on("plain")
    # A connection of ours is closed there a moment after it was here.
    wait_for(lambda: all(map(int.__le__, held_by(pid), before)), f"no more than {before}")
