"""Clock steps: the clock of the day is set by days or decades while everything is under way.

Deadlines and waits are durations, and no clock decides what is alive; so nothing is cut short,
nothing lasts longer and nothing is stuck. Only what is an instant by its nature follows the clock:
timestamps, and the end of a log-in. `clock_driver.py` tells how the clock is set.
"""

import json
import mmap
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.services.retention import ALWAYS_KEPT
from tests.live_server import Answer, Api, LiveServer, pack_agent
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

DRIVER = Path(__file__).with_name("clock_driver.py")
BACK, AHEAD = timedelta(days=-2), timedelta(days=54 * 365)
STEPS = pytest.mark.parametrize("step", [BACK, AHEAD], ids=["back", "ahead"])
TIMEOUT_SECONDS = 4.0
SETTINGS = {
    "WORKER_CONCURRENCY": "2",
    "EXECUTION_QUEUE_SIZE": "3",
    "EXECUTION_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
}
SLEEPER = """
import time

def handle(payload):
    time.sleep(payload.get("sleep", 0))
    return payload
"""
SLOW_TO_BUILD = "import time\ntime.sleep(2)\n" + SLEEPER
PASSWORD = "correct horse"


@dataclass
class Clocked:
    """A server, and the clock that it reads."""

    live: LiveServer
    shared: mmap.mmap

    def set_off(self, by: timedelta) -> None:
        """Set its clock to so much from the true time."""
        self.shared[:8] = struct.pack("d", by.total_seconds())

    def wait_for_sweeps(self) -> None:
        """Wait until it has looked for what is too old, from now on."""
        before = self._sweeps()
        wait_for(lambda: self._sweeps() >= before + 3, "sweeps")

    def _sweeps(self) -> float:
        return float(struct.unpack("d", self.shared[8:])[0])


@contextmanager
def clocked(
    folder: Path,
    *mutants: str,
    off: timedelta = timedelta(0),
    settings: Mapping[str, str] | None = None,
    is_killed: bool = False,
) -> Iterator[Clocked]:
    """Start a server on the folder's data, its clock so far off."""
    path = folder / "shared"
    path.write_bytes(struct.pack("dd", off.total_seconds(), 0))
    orders = json.dumps({"shared": str(path), "mutants": mutants})
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
        live = LiveServer(
            folder / "data",
            settings={**SETTINGS, **(settings or {})},
            program=(sys.executable, str(DRIVER), orders),
        )
        try:
            yield Clocked(live.start(), shared)
        finally:
            status = live.stop(signal.SIGKILL if is_killed else signal.SIGTERM)
        assert status == (-signal.SIGKILL if is_killed else 0), live.output
        assert "Traceback" not in live.output, live.output


class Later:
    """An answer that comes on another thread, and how long it took."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        self.answer = self._ask()
        self.seconds = time.monotonic() - began

    def wait(self) -> Answer:
        """Return the answer when it is there."""
        self._thread.join()
        return self.answer


def begin(api: Api, agent_id: int, sleep: float, **headers: str) -> Answer:
    """Execute in the background."""
    return api.call(
        "POST",
        f"/api/v1/runtime/{agent_id}/execute",
        {"payload": {"sleep": sleep}},
        headers={"Prefer": "respond-async", **headers},
    )


def row_of(api: Api, execution_id: int) -> Any:
    """Return an execution as it stands."""
    return api.call("GET", f"/api/v1/runtime/executions/{execution_id}").json


def end_of(api: Api, execution_id: int) -> Any:
    """Return an execution when it has ended."""

    def look() -> Any:
        row = row_of(api, execution_id)
        return row if row["status"] not in ("pending", "running") else None

    return wait_for(look, f"the end of execution {execution_id}", 20)


def log_in(api: Api, username: str, password: str = PASSWORD) -> Answer:
    """Ask for a token."""
    return api.call("POST", "/api/v1/auth/login", {"username": username, "password": password})


def instants(value: Any) -> Iterator[datetime]:
    """Return every instant in an answer; raises ValueError for one that cannot be read."""
    if isinstance(value, list):
        for item in value:
            yield from instants(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if item is not None and (name.endswith("_at") or name == "timestamp"):
                yield datetime.fromisoformat(item)
            else:
                yield from instants(item)


def wrong_with_work(folder: Path, step: timedelta, *mutants: str) -> list[str]:
    """Have the clock step while everything is under way; return what was not as ever."""
    found: list[str] = []

    def expect(is_so: bool, what: object) -> None:
        if not is_so:
            found.append(str(what))

    with clocked(folder, *mutants) as server:
        api = server.live.api.new_user("person")
        agent_id = api.deploy(pack_agent(SLEEPER))
        slow = api.upload(api.new_agent("slow"), pack_agent(SLOW_TO_BUILD)).json
        path = f"/api/v1/agents/{slow['agent_id']}/versions/{slow['id']}"
        wait_for(lambda: api.call("GET", path).json["status"] == "building", "the build to begin")
        ends = begin(api, agent_id, 1.5).json["id"]
        overruns = begin(api, agent_id, 60).json["id"]
        waits = begin(api, agent_id, 0).json["id"]
        plain = Later(lambda: api.execute(agent_id, {"sleep": 0.1}))
        poll = Later(lambda: api.call("GET", f"/api/v1/runtime/executions/{overruns}?wait=2"))
        running = [row_of(api, one)["status"] for one in (ends, overruns, waits)]
        expect(running == ["running", "running", "pending"], running)

        server.set_off(step)

        expect(poll.wait().json["status"] == "running", poll.answer.body)
        expect(1.9 < poll.seconds < TIMEOUT_SECONDS, f"the poll took {poll.seconds} s")
        row = end_of(api, overruns)
        least, most = TIMEOUT_SECONDS * 1000, TIMEOUT_SECONDS * 1000 + 1500
        expect(row["error_code"] == "timeout" and least <= row["duration_ms"] < most, row)
        row = end_of(api, ends)
        expect(row["status"] == "completed" and 1500 <= row["duration_ms"] < 3500, row)
        expect(end_of(api, waits)["status"] == "completed", waits)
        expect(plain.wait().status == 201, plain.answer.body)
        expect(plain.answer.json["status"] == "completed", plain.answer.body)
        expect(api.wait_for_build(slow["agent_id"], slow["id"])["status"] == "ready", slow)

        row = api.execute(agent_id).json
        newer = row["id"]
        expect(_is_near(datetime.fromisoformat(row["created_at"]), step), row)
        for name in ("/ready", "/health"):
            expect(api.call("GET", name).status == 200, name)
        rows = api.call("GET", "/api/v1/runtime/executions").json
        ids = [row["id"] for row in rows]
        expect(ids[0] == newer and ids == sorted(ids, reverse=True), ids)
        logs = api.call("GET", f"/api/v1/logs/{agent_id}").json
        off = [at for at in instants([rows, logs]) if not _is_near(at, timedelta(0), step)]
        expect(not off, off)
    return found


def _is_near(instant: datetime, *offsets: timedelta) -> bool:
    now = datetime.now(UTC)
    return any(abs(instant - (now + offset)) < timedelta(minutes=5) for offset in offsets)


@STEPS
def test_what_is_under_way_ends_as_ever(step: timedelta, tmp_path: Path) -> None:
    assert wrong_with_work(tmp_path, step) == []


def test_deadlines_by_the_clock_of_the_day_are_found(tmp_path: Path) -> None:
    found = wrong_with_work(tmp_path, AHEAD, "wall_clock_deadlines")
    assert any("'status': 'failed'" in line for line in found), found


# Who may come in ----------------------------------------------------------------------------------


def wrong_with_tokens(folder: Path, step: timedelta, *mutants: str) -> list[str]:
    """Set the clock while people are logged in; return what was not as it should be."""
    with clocked(folder, *mutants) as server:
        api = server.live.api.new_user("person")
        token = log_in(api, "person").json["access_token"]
        bearer = server.live.api.with_headers(Authorization=f"Bearer {token}")
        server.set_off(step)
        anew = log_in(api, "person").json["access_token"]
        statuses = {
            "key": api.call("GET", "/api/v1/agents").status,
            "old token": bearer.call("GET", "/api/v1/auth/me").status,
            "new token": _me(server, anew),
        }
        server.set_off(timedelta(0))  # the mistake is corrected
        statuses["token of the wrong time"] = _me(server, anew)
        used = server.live.api.with_headers(Authorization=f"Bearer {token}")
        keys = used.call("GET", "/api/v1/api-keys").json
        assert list(instants(keys))
    # Set back, tokens last longer; set forward, they have ended, and a new one is to be had. One
    # that was made two days before now has ended, and one from the future has not.
    expected = {
        "key": 200,
        "old token": 200 if step == BACK else 401,
        "new token": 200,
        "token of the wrong time": 401 if step == BACK else 200,
    }
    return [f"{name}: {statuses[name]}" for name in statuses if statuses[name] != expected[name]]


def _me(server: Clocked, token: str) -> int:
    bearer = server.live.api.with_headers(Authorization=f"Bearer {token}")
    return bearer.call("GET", "/api/v1/auth/me").status


@STEPS
def test_people_can_come_in(step: timedelta, tmp_path: Path) -> None:
    assert wrong_with_tokens(tmp_path, step) == []


def test_tokens_that_are_refused_for_their_birthday_are_found(tmp_path: Path) -> None:
    assert wrong_with_tokens(tmp_path, BACK, "tokens_with_birthdays")


def longest_lock(folder: Path, before: timedelta, after: timedelta, *mutants: str) -> int:
    """Use up all attempts, set the clock, return for how long everybody is locked out then."""
    limits = {"LOGIN_RATE_LIMIT": "2/minute", "REGISTER_RATE_LIMIT": "2/hour"}
    with clocked(folder, *mutants, off=before, settings=limits) as server:
        api = server.live.api
        person = {"email": "a@example.com", "username": "a", "password": PASSWORD}
        for _ in range(2):
            api.call("POST", "/api/v1/auth/register", person)
            assert log_in(api, "a", "wrong").status == 401
        server.set_off(after)
        answers = [log_in(api, "a"), api.call("POST", "/api/v1/auth/register", person)]
        assert [answer.status for answer in answers] == [429, 429]
        seconds = [int(answer.headers["Retry-After"]) for answer in answers]
        assert seconds[0] <= 60 or mutants
        return max(seconds)


@pytest.mark.parametrize(
    ("before", "after"),
    [(timedelta(0), BACK), (timedelta(0), AHEAD), (AHEAD, timedelta(0))],
    ids=["back", "ahead", "corrected"],
)
def test_nobody_is_locked_out_for_longer(
    before: timedelta, after: timedelta, tmp_path: Path
) -> None:
    assert longest_lock(tmp_path, before, after) <= 3600


def test_windows_by_the_clock_of_the_day_are_found(tmp_path: Path) -> None:
    assert longest_lock(tmp_path, timedelta(0), BACK, "wall_clock_limits") > 24 * 3600


# What lasts ---------------------------------------------------------------------------------------


@STEPS
def test_load_is_refused_for_seconds_and_nothing_is_done_twice(
    step: timedelta, tmp_path: Path
) -> None:
    with clocked(tmp_path) as server:
        api = server.live.api.new_user("person")
        agent_id = api.deploy(pack_agent(SLEEPER))
        first = begin(api, agent_id, 0.2, **{"Idempotency-Key": "once"})
        end_of(api, first.json["id"])
        begun = [begin(api, agent_id, 60).json["id"] for _ in range(5)]
        server.set_off(step)
        refused = begin(api, agent_id, 0)
        assert (refused.status, 1 <= int(refused.headers["Retry-After"]) <= 60) == (503, True)
        for execution_id in begun:
            path = f"/api/v1/runtime/executions/{execution_id}/cancel"
            assert api.call("POST", path).json["status"] == "cancelled"
        again = begin(api, agent_id, 0.2, **{"Idempotency-Key": "once"})
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json["id"] == first.json["id"]


def lost_by(folder: Path, step: timedelta, *mutants: str) -> list[str]:
    """Set the clock beside more executions than are kept in any case; return what is gone."""
    with clocked(folder, *mutants, settings={"EXECUTION_RETENTION_DAYS": "1"}) as server:
        api = server.live.api.new_user("person")
        agent_id = api.deploy(pack_agent(SLEEPER))
        path, headers = f"/api/v1/runtime/{agent_id}/execute", {"Idempotency-Key": "once"}
        keyed = api.call("POST", path, {"payload": {}}, headers=headers).json["id"]
        first = api.execute(agent_id).json["id"]
        for _ in range(ALWAYS_KEPT):
            assert api.execute(agent_id).status == 201
        server.set_off(step)
        server.wait_for_sweeps()
        again = api.call("POST", path, {"payload": {}}, headers=headers)
        lost = [] if again.json["id"] == keyed else ["key"]
        path = f"/api/v1/runtime/executions/{first}"
        return lost if api.call("GET", path).status == 200 else [*lost, "execution"]


@STEPS
def test_nothing_is_too_old_because_of_a_step(step: timedelta, tmp_path: Path) -> None:
    assert lost_by(tmp_path, step) == []


def test_a_clock_that_is_believed_at_once_is_found(tmp_path: Path) -> None:
    assert lost_by(tmp_path, AHEAD, "believed_clock") == ["key", "execution"]


@pytest.mark.parametrize(
    ("before", "after"),
    [(AHEAD, timedelta(0)), (timedelta(0), AHEAD), (timedelta(0), BACK)],
    ids=["from-the-future", "into-the-future", "into-the-past"],
)
def test_a_start_at_another_time_recovers_everything(
    before: timedelta, after: timedelta, tmp_path: Path
) -> None:
    with clocked(tmp_path, off=before) as server:
        api = server.live.api.new_user("person")
        agent_id = api.deploy(pack_agent(SLEEPER))
        done = api.execute(agent_id, {"n": 1}).json
    with clocked(tmp_path, off=before, is_killed=True) as server:
        api = Api(server.live.url, api.headers)
        torn = begin(api, agent_id, 60).json["id"]
        slow = api.upload(agent_id, pack_agent(SLOW_TO_BUILD)).json
    with clocked(tmp_path, off=after) as server:
        api = Api(server.live.url, api.headers)
        assert end_of(api, torn)["error_code"] == "server_restarted"
        assert row_of(api, done["id"]) == done
        assert api.wait_for_build(agent_id, slow["id"])["status"] == "ready"
        newer = api.execute(agent_id, {"n": 2}).json
        assert newer["status"] == "completed"
        assert newer["id"] > torn > done["id"]
        listed = [row["id"] for row in api.call("GET", "/api/v1/runtime/executions").json]
        assert listed == [newer["id"], torn, done["id"]]
        login = log_in(api, "person")
        assert _me(server, login.json["access_token"]) == 200
