"""What all rigs share: what was promised to clients, servers that die, and what must hold after.

`Promises` is what clients were told. `Inspection` starts a server on what a dead one left and lists
every violation: of a promise, of a row that is stuck, of a file or a process that nobody owns.
"""

import hashlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.live_server import Answer, Api, LiveServer, pack_agent
from tests.processes import children, zombies
from tests.waiting import DEADLINE_SECONDS, wait_for

DRIVER = Path(__file__).parent / "driver.py"
SETTLE_SECONDS = 30.0
SOURCE = """
import time

def handle(payload):
    time.sleep(payload.get("sleep", 0))
    return {"echo": payload}
"""
GONE = (OSError, HTTPException)
# What a cancelled run printed, and what it took, may be added after the cancel was answered.
_TRACES = frozenset({"logs", "tier", "layers", "warm", "cpu_ms", "max_rss_kb"}) | frozenset(
    {"duration_ms", "start_ms", "wall_ms"}
)
_DATA_NAMES = frozenset(
    f"{name}{suffix}"
    for name in ("anymind.sqlite3", "queue.sqlite3")
    for suffix in ("", "-wal", "-shm")
) | {"artifacts", "backups", "code", "run", "secret.key"}

Row = dict[str, Any]


def new_archive(size: int = 200_000) -> bytes:
    """Return an archive that works and has no equal."""
    return pack_agent(SOURCE, **{"filler.txt": secrets.token_hex(size)})


@dataclass
class Promises:
    """What clients were told is done; threads may add to it."""

    key: str = ""
    agents: set[int] = field(default_factory=set)
    uploads: dict[int, tuple[Row, str]] = field(default_factory=dict)  # row, SHA-256
    ends: dict[int, Row] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)  # executions, and whose they are
    deleted: set[int] = field(default_factory=set)
    in_deletion: set[int] = field(default_factory=set)  # asked for, perhaps not answered
    conflicts: list[str] = field(default_factory=list)  # two answers that cannot both be true

    def copy(self) -> "Promises":
        """Return what was promised up to now."""
        return Promises(
            self.key,
            set(self.agents),
            dict(self.uploads),
            dict(self.ends),
            dict(self.begun),
            set(self.deleted),
            set(self.in_deletion),
            list(self.conflicts),
        )

    def is_kept_for(self, agent_id: int) -> bool:
        """Tell whether nobody has asked for the agent's deletion."""
        return agent_id not in self.deleted | self.in_deletion

    def uploads_to_keep(self) -> list[tuple[Row, str]]:
        """Return what was uploaded to agents that nobody deletes."""
        return [one for one in self.uploads.values() if self.is_kept_for(one[0]["agent_id"])]


def told(end: Row) -> Row:
    """Return what may not change any more of an execution that ended."""
    loose = {"agent", *(_TRACES if end["status"] == "cancelled" else ())}
    return {name: value for name, value in end.items() if name not in loose}


@dataclass
class Client:
    """A user who notes what the server promises; each call is on a connection of its own."""

    api: Api
    promises: Promises

    def sign_up(self, name: str) -> "Client":
        """Become a user of a new server."""
        self.api = self.api.new_user(name)
        self.promises.key = self.api.headers["X-API-Key"]
        return self

    def new_agent(self) -> int | None:
        """Create an agent; None when it was refused."""
        answer = self.api.call("POST", "/api/v1/agents", {"name": "agent"})
        if answer.status != 201:
            return None
        self.promises.agents.add(answer.json["id"])
        return int(answer.json["id"])

    def upload(self, agent_id: int, size: int = 200_000) -> Answer:
        """Upload an archive that has no equal."""
        archive = new_archive(size)
        answer = self.api.upload(agent_id, archive)
        if answer.status == 201:
            digest = hashlib.sha256(archive).hexdigest()
            self.promises.uploads[answer.json["id"]] = (answer.json, digest)
        return answer

    def execute(self, agent_id: int, payload: Row | None = None) -> Answer:
        """Execute an agent; what is answered 201 has ended."""
        answer = self.api.execute(agent_id, payload)
        if answer.status == 201:
            self._note_end(agent_id, answer.json)
        return answer

    def begin(self, agent_id: int, payload: Row | None = None) -> Answer:
        """Execute an agent in the background; what is answered 202 is known to the server."""
        answer = self.api.call(
            "POST",
            f"/api/v1/runtime/{agent_id}/execute",
            {"payload": payload or {}},
            headers={"Prefer": "respond-async"},
        )
        if answer.status == 202:
            self.promises.begun[answer.json["id"]] = agent_id
        return answer

    def cancel(self, agent_id: int, execution_id: int) -> Answer:
        """Cancel an execution; it has ended then."""
        answer = self.api.call("POST", f"/api/v1/runtime/executions/{execution_id}/cancel")
        if answer.status == 200:
            self._note_end(agent_id, answer.json)
        return answer

    def _note_end(self, agent_id: int, row: Row) -> None:
        first = self.promises.ends.setdefault(row["id"], {**row, "agent": agent_id})
        if told(first) != told(row):
            self.promises.conflicts.append(f"execution: {told(first)} and {told(row)}")

    def delete(self, agent_id: int) -> Answer:
        """Delete an agent; from the question on nothing of it needs to be there."""
        self.promises.in_deletion.add(agent_id)
        answer = self.api.call("DELETE", f"/api/v1/agents/{agent_id}")
        if answer.status == 204:
            self.promises.deleted.add(agent_id)
        return answer

    def unfinished(self) -> list[Row]:
        """Return the executions that wait or run."""
        rows = self.api.call("GET", "/api/v1/runtime/executions?limit=100").json
        return [row for row in rows if row["status"] in ("pending", "running")]


def client_of(live: LiveServer, promises: Promises) -> Client:
    """Return the user of an earlier server as a client of this one."""
    return Client(live.api.with_headers(X_API_Key=promises.key), promises)


# Servers with orders ------------------------------------------------------------------------------


def driven(**orders: Any) -> tuple[str, ...]:
    """Return the program that is the server under orders (see `driver.py`)."""
    return (sys.executable, str(DRIVER), json.dumps({"point": None, "mutants": [], **orders}))


@dataclass
class Doomed:
    """A server that dies, or stops, at a point once it is armed."""

    data: Path
    point: tuple[str, str] | None = None
    mutants: Sequence[str] = ()
    number: int = signal.SIGKILL
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._armed_by = self.data.parent / f"{self.data.name}.armed"
        program = driven(
            point=self.point,
            mutants=list(self.mutants),
            signal=int(self.number),
            armed_by=str(self._armed_by),
        )
        self.live = LiveServer(self.data, settings=self.settings, program=program)

    def arm(self) -> None:
        """Have it die at the next chance."""
        self._armed_by.touch()

    def has_passed(self) -> bool:
        """Tell whether the point was reached."""
        return not self._armed_by.exists()

    def wait_for_death(self) -> None:
        """Wait until the server is dead by its own hand."""
        status = self.live.process.wait(DEADLINE_SECONDS)
        assert status == -self.number, f"it ended with {status}:\n{self.live.output}"
        assert self.has_passed(), f"it did not die at {self.point}:\n{self.live.output}"

    def start_and_die(self) -> None:
        """Start it where its point is on the way to serving, or soon after."""
        self.arm()
        try:
            self.live.start()
        except AssertionError:
            pass  # it never served
        try:
            self.wait_for_death()
        finally:
            self.live.stop(signal.SIGKILL)


@contextmanager
def serving(doomed: Doomed) -> Iterator[LiveServer]:
    """Start a server that is dead in the end, however the block ends."""
    try:
        yield doomed.live.start()
    finally:
        doomed.live.stop(signal.SIGKILL)


# What must hold -----------------------------------------------------------------------------------


@dataclass
class Inspection:
    """Starts a server on what a dead one left, and finds what is wrong."""

    data: Path
    promises: Promises
    mutants: Sequence[str] = ()
    settle_seconds: float = SETTLE_SECONDS
    may_complain: bool = False  # with a traceback in its log

    def __post_init__(self) -> None:
        self.violations: list[str] = list(self.promises.conflicts)

    def run(self) -> list[str]:
        """Return every violation."""
        live = Doomed(self.data, mutants=self.mutants).live
        try:
            live.start()
        except AssertionError as exc:
            live.stop(signal.SIGKILL)
            return [*self.violations, f"the server does not start: {exc}"]
        try:
            self._look_at_rows(client_of(live, self.promises))
        finally:
            status = live.stop()
        if status != 0 or ("Traceback" in live.output and not self.may_complain):
            self._found(f"the server ended with {status}:\n{live.output}")
        self._look_at_database()
        self._look_at_files()
        self.violations += leftover_processes()
        return self.violations

    def _found(self, violation: str) -> None:
        self.violations.append(violation)

    # while it serves

    def _look_at_rows(self, client: Client) -> None:
        self._wait_until_settled()
        for row, digest in self.promises.uploads_to_keep():
            self._look_at_upload(client.api, row, digest)
        for end in self.promises.ends.values():
            if self.promises.is_kept_for(end["agent"]):
                self._look_at_end(client.api, end)
        for execution_id, agent_id in self.promises.begun.items():
            if self.promises.is_kept_for(agent_id):
                self._look_at_begun(client.api, execution_id)
        for agent_id in filter(self.promises.is_kept_for, self.promises.agents):
            if client.api.call("GET", f"/api/v1/agents/{agent_id}").status != 200:
                self._found(f"agent {agent_id} was acknowledged and is lost")
        for agent_id in self.promises.deleted:
            if client.api.call("GET", f"/api/v1/agents/{agent_id}").status != 404:
                self._found(f"agent {agent_id} was deleted and is back")
        self._look_at_old_agents(client)
        self._look_at_new_work(client)

    def _wait_until_settled(self) -> None:
        stuck: list[str] = []

        def is_settled() -> bool:
            stuck[:] = self._unfinished()
            return not stuck

        try:
            wait_for(is_settled, "rows to settle", self.settle_seconds)
        except AssertionError:
            self.violations += stuck

    def _unfinished(self) -> list[str]:
        rows = self._select(
            "SELECT 'version', id, status FROM agent_version WHERE status IN ('queued', 'building')"
            " UNION ALL "
            "SELECT 'execution', id, status FROM execution WHERE status IN ('pending', 'running')"
        )
        return [f"{kind} {number} is stuck: {status}" for kind, number, status in rows]

    def _look_at_upload(self, api: Api, row: Row, digest: str) -> None:
        name = f"upload {row['id']}"
        path = f"/api/v1/agents/{row['agent_id']}/versions/{row['id']}"
        version = api.call("GET", path)
        if version.status != 200:
            self._found(f"{name} was acknowledged and is lost")
            return
        if version.json["status"] != "ready":
            self._found(f"{name} is {version.json['status']}: {version.json['build_log']}")
        content = api.call("GET", f"/api/v1/uploads/{row['tarball_path']}")
        if hashlib.sha256(content.body).hexdigest() != digest:
            self._found(f"{name} is not what was uploaded")

    def _look_at_end(self, api: Api, end: Row) -> None:
        answer = api.call("GET", f"/api/v1/runtime/executions/{end['id']}")
        if answer.status != 200:
            self._found(f"execution {end['id']} was answered and is lost")
            return
        if told(end) != told(answer.json):
            self._found(f"execution changed: {told(end)} became {told(answer.json)}")

    def _look_at_begun(self, api: Api, execution_id: int) -> None:
        answer = api.call("GET", f"/api/v1/runtime/executions/{execution_id}")
        if answer.status != 200:
            self._found(f"execution {execution_id} was begun and is lost")

    def _look_at_old_agents(self, client: Client) -> None:
        # Only a deletion that was cut off archives one here.
        query = "SELECT id FROM agent WHERE current_version_id IS NOT NULL AND status <> 'archived'"
        for (agent_id,) in self._select(query):
            answer = client.execute(agent_id, {"number": agent_id})
            if (answer.json or {}).get("output_data") != {"echo": {"number": agent_id}}:
                self._found(f"agent {agent_id} does not run: {answer.status} {answer.body!r}")

    def _look_at_new_work(self, client: Client) -> None:
        agent_id = client.new_agent()
        if agent_id is None or client.upload(agent_id, 10).status != 201:
            self._found("an agent cannot be uploaded")
            return
        self._wait_until_settled()
        answer = client.execute(agent_id, {"new": True})
        if (answer.json or {}).get("output_data") != {"echo": {"new": True}}:
            self._found(f"a new agent does not run: {answer.status} {answer.body!r}")

    # after it has stopped

    def _select(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self.data}/anymind.sqlite3?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def _look_at_database(self) -> None:
        for query in ("PRAGMA integrity_check", "PRAGMA foreign_key_check"):
            found = self._select(query)
            if found not in ([], [("ok",)]):
                self._found(f"{query}: {found}")
        for agent_id, status, current in self._select(
            "SELECT id, status, current_version_id FROM agent"
        ):
            expected = self._derived(agent_id, status)
            if (status, current) != expected:
                self._found(f"agent {agent_id} is {(status, current)}, not {expected}")

    def _derived(self, agent_id: int, status: str) -> tuple[str, int | None]:
        """Work out an agent's status and current version in another way than the product does."""
        rows = self._select(
            f"SELECT id, status FROM agent_version WHERE agent_id = {agent_id} ORDER BY number"
        )
        ready = [number for number, of_version in rows if of_version == "ready"]
        newest = rows[-1][1] if rows else "draft"
        newest = {"queued": "building"}.get(newest, newest)
        return (status if status == "archived" else newest, max(ready, default=None))

    def _look_at_files(self) -> None:
        artifacts = self.data / "artifacts"
        named = {
            artifacts / path: digest
            for path, digest in self._select(
                "SELECT tarball_path, tarball_sha256 FROM agent_version"
            )
        }
        there = {path for path in artifacts.glob("agents/**/*") if path.is_file()}
        for path in there - named.keys():
            self._found(f"file without a row: {path}")
        for path, digest in named.items():
            if path not in there:
                self._found(f"row without its file: {path}")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                self._found(f"damaged file: {path}")
        self._look_for_litter(artifacts)

    def _look_for_litter(self, artifacts: Path) -> None:
        agents = {str(number) for (number,) in self._select("SELECT id FROM agent")}
        ready = self._select("SELECT agent_id, id FROM agent_version WHERE status = 'ready'")
        code = {f"{agent}/{version}" for agent, version in ready} | agents
        litter = [*artifacts.glob(".incoming/*"), *self.data.glob("run/scratch/*")]
        litter += [path for path in artifacts.glob("agents/*") if path.name not in agents]
        for path in (*self.data.glob("code/*"), *self.data.glob("code/*/*")):
            if str(path.relative_to(self.data / "code")) not in code:
                litter.append(path)
        litter += [path for path in self.data.iterdir() if path.name not in _DATA_NAMES]
        self.violations += [f"litter: {path}" for path in litter]


def leftover_processes(seconds: float = 5.0) -> list[str]:
    """Return what dead servers left running: orphans become children of this process.

    See `adopting_orphans`. Call it when no server runs.
    """

    def are_gone() -> bool:
        for pid in zombies(os.getpid()):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # its own Popen was first
        return not children(os.getpid()) - _spared

    try:
        wait_for(are_gone, "orphans to end", seconds)
    except AssertionError:
        left = children(os.getpid()) - _spared
        return [f"leftover process {pid}" for pid in left]
    return []


_spared: set[int] = set()


def spare_what_runs() -> None:
    """Let `leftover_processes` pass over what other tests have started and still use."""
    _spared.update(children(os.getpid()))


@contextmanager
def spared(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Let `leftover_processes` pass over a process that the test itself runs."""
    _spared.add(process.pid)
    try:
        yield
    finally:
        _spared.discard(process.pid)


def in_background(action: Callable[[], object]) -> threading.Thread:
    """Do something whose server may die meanwhile."""

    def attempt() -> None:
        try:
            action()
        except GONE:
            pass  # and nothing was promised

    thread = threading.Thread(target=attempt)
    thread.start()
    return thread
