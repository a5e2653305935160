"""kill -9 at named points: nothing that was promised is lost, nothing is stuck or left behind."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.faults.conftest import Ground
from tests.faults.points import FIRST_START, KINDS, START
from tests.faults.rig import (
    GONE,
    Client,
    Doomed,
    Inspection,
    Promises,
    client_of,
    in_background,
    serving,
)
from tests.live_server import LiveServer
from tests.waiting import wait_for

ONE_SLOT = {"WORKER_CONCURRENCY": "1"}


def upload(client: Client, ground: Ground, _doomed: Doomed) -> None:
    client.upload(ground.agent_id)


def execute(client: Client, ground: Ground, _doomed: Doomed) -> None:
    client.execute(ground.agent_id, {"number": 1})


def execute_in_background(client: Client, ground: Ground, _doomed: Doomed) -> None:
    client.begin(ground.agent_id, {"number": 1})


def wait_in_line(client: Client, ground: Ground, _doomed: Doomed) -> None:
    first = in_background(lambda: client.execute(ground.agent_id, {"sleep": 20}))
    wait_for(client.unfinished, "the slot to be taken")
    client.execute(ground.agent_id)
    first.join()


def cancel(client: Client, ground: Ground, _doomed: Doomed) -> None:
    in_background(lambda: client.execute(ground.agent_id, {"sleep": 20}))
    (row,) = wait_for(client.unfinished, "an execution to cancel")
    client.cancel(ground.agent_id, row["id"])


def delete(client: Client, ground: Ground, _doomed: Doomed) -> None:
    client.delete(ground.agent_id)


ACTIONS: Mapping[str, Callable[[Client, Ground, Doomed], None]] = {
    "upload": upload,
    "build": upload,
    "execution": execute,
    "background": execute_in_background,
    "waiting": wait_in_line,
    "cancel": cancel,
    "deletion": delete,
}


def die_at(ground: Ground, kind: str, name: str, mutants: tuple[str, ...] = ()) -> None:
    """Have a server die at a point of something that a client asks for."""
    settings = ONE_SLOT if kind == "waiting" else {}
    doomed = Doomed(ground.data, (kind, name), mutants, settings=settings)
    with serving(doomed) as live:
        doomed.arm()
        try:
            ACTIONS[kind](client_of(live, ground.promises), ground, doomed)
        except GONE:
            pass  # and nothing was promised
        doomed.wait_for_death()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ACTIONS for name in KINDS[kind]]
)
def test_a_kill_loses_nothing_and_leaves_nothing(ground: Ground, kind: str, name: str) -> None:
    die_at(ground, kind, name)
    assert Inspection(ground.data, ground.promises).run() == []


MUTANTS = [
    ("no_recovery", "execution", "the agent runs", "is stuck: running"),
    ("no_hints", "upload", "the row is committed", "is stuck: queued"),
    ("no_sweep", "upload", "the file is renamed", "file without a row"),
    ("row_before_file", "upload", "nothing is written", "row without its file"),
    ("kept_cache", "build", "the code is unpacked", "litter: "),
]


@pytest.mark.parametrize(("mutant", "kind", "name", "violation"), MUTANTS)
def test_mutants_are_caught(
    ground: Ground, mutant: str, kind: str, name: str, violation: str
) -> None:
    die_at(ground, kind, name, (mutant,))
    found = Inspection(ground.data, ground.promises, (mutant,), settle_seconds=8).run()
    assert any(violation in one for one in found), found


LEAVE_IT = ("no_recovery", "no_hints", "no_sweep")


def leave_everything_half_done(ground: Ground) -> None:
    """Die with an orphan, a build, and an execution that runs."""
    die_at(ground, "upload", "the folder is synced")
    die_at(ground, "build", "the entrypoint is imported", LEAVE_IT)
    doomed = Doomed(ground.data, ("execution", "the agent runs"), LEAVE_IT)
    with serving(doomed) as live:
        doomed.arm()
        in_background(lambda: execute(client_of(live, ground.promises), ground, doomed)).join()
        doomed.wait_for_death()


@pytest.fixture(scope="module")
def half_done(template: Ground, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    data = tmp_path_factory.mktemp("half_done") / "data"
    shutil.copytree(template.data, data)
    ground = Ground(data, template.promises.copy(), template.agent_id)
    leave_everything_half_done(ground)
    return ground


@pytest.mark.parametrize("name", START)
def test_a_start_that_is_killed_can_be_repeated(
    half_done: Ground, tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(half_done.data, data)
    Doomed(data, ("start", name)).start_and_die()
    assert Inspection(data, half_done.promises.copy()).run() == []


@pytest.mark.parametrize("name", FIRST_START)
def test_a_first_start_that_is_killed_can_be_repeated(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    Doomed(data, ("first start", name)).start_and_die()
    with LiveServer(data) as live:
        promises = Client(live.api, Promises()).sign_up("person").promises
    assert Inspection(data, promises).run() == []


def test_a_build_that_kills_the_server_three_times_is_failed(ground: Ground) -> None:
    before = ground.promises.copy()
    die_at(ground, "build", "the entrypoint is imported")
    for _ in range(2):
        Doomed(ground.data, ("build", "the entrypoint is imported")).start_and_die()
    assert Inspection(ground.data, before).run() == []
    with LiveServer(ground.data) as live:
        path = f"/api/v1/agents/{ground.agent_id}/versions/2"
        poison = client_of(live, before).api.call("GET", path).json
    assert poison["status"] == "failed"
    assert "the server could not finish it in 3 attempts" in poison["build_log"]
