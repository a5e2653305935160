"""Power cuts: what was acknowledged before one is there after it, and nothing is half there.

`ANYMIND_FAULT_CUTS` says how many.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Ground
from tests.faults.load import Load
from tests.faults.points import KINDS
from tests.faults.power import PowerRig, power_rig
from tests.faults.rig import Client, Doomed, Inspection, client_of, in_background, serving
from tests.faults.test_kill_points import ACTIONS
from tests.waiting import wait_for

CUTS = int(os.environ.get("ANYMIND_FAULT_CUTS", "60"))
SEED = int(os.environ.get("ANYMIND_FAULT_SEED", "0")) or random.randrange(1, 10**9)
CUTS_OF_ONE_SERVER = 12
FEW_THREADS = {"WORKER_CONCURRENCY": "1", "EXECUTION_QUEUE_SIZE": "1", "BUILD_WORKERS": "1"}
_THREADS = 18  # of such a server, or some more
_LOG_BYTES = 4 * 1024 * 1024  # journal_size_limit of the product's database


@pytest.fixture
def rig(tmp_path: Path, template: Ground) -> Iterator[PowerRig]:
    with power_rig(tmp_path, template) as rig:
        yield rig


def quieten(client: Client, ground: Ground) -> None:
    """Bring SQLite to where it makes ext4 flush nothing but what it asks for.

    A log that grows makes ext4 write its journal, and so does the folder that each new connection
    flushes once: with the journal go the names of all other files, which would hide that nobody
    asked for these. So the log is filled until it is begun anew, and every thread writes once.
    """
    log = ground.data / "anymind.sqlite3-wal"
    text = "x" * 400_000
    while not log.exists() or log.stat().st_size < _LOG_BYTES:
        assert client.execute(ground.agent_id, {"text": text}).status == 201
    for number in range(5 * _THREADS):
        changes = {"description": f"change {number}"}
        path = f"/api/v1/agents/{ground.agent_id}"
        assert client.api.call("PATCH", path, changes).status == 200
    for _ in range(3):
        version = client.upload(ground.agent_id, 10)
        client.api.wait_for_build(ground.agent_id, version.json["id"])


def work_quietly(rig: PowerRig, number: int, *mutants: str) -> None:
    """Cut right after each acknowledgement, when nothing else makes the disk flush."""
    ground = rig.ground
    with serving(Doomed(ground.data, mutants=mutants, settings=FEW_THREADS)) as live:
        client = client_of(live, ground.promises)
        quieten(client, ground)
        for _ in range(number):
            upload = client.upload(ground.agent_id, 20_000)
            assert upload.status == 201
            rig.cut()
            client.api.wait_for_build(ground.agent_id, upload.json["id"])
            assert client.execute(ground.agent_id).status == 201
            rig.cut()


def work_under_load(rig: PowerRig, number: int, choices: random.Random) -> None:
    """Cut at random instants while clients do everything at once."""
    with serving(Doomed(rig.ground.data)) as live:
        client = client_of(live, rig.ground.promises)
        with Load(client, choices.randrange(10**9), threads=3) as load:
            for _ in range(number):
                ends = len(rig.ground.promises.ends)
                wait_for(lambda ends=ends: len(rig.ground.promises.ends) > ends, "work")  # type: ignore[misc]
                # Not for anything to happen: this is the random instant.
                time.sleep(choices.uniform(0, 0.4))
                rig.cut()
            live.process.send_signal(signal.SIGKILL)
    assert load.failures == []


def test_power_cuts_lose_nothing_and_leave_nothing_half_done(rig: PowerRig) -> None:
    print(f"seed {SEED}, {CUTS} cuts")
    choices = random.Random(SEED)
    seconds = []
    done = 0
    while done < CUTS:
        number = min(CUTS_OF_ONE_SERVER, CUTS - done)
        started_at = time.monotonic()
        if done % 3:
            work_under_load(rig, number, choices)
        else:
            work_quietly(rig, number // 2)
        while rig.cuts:
            found = rig.inspect(rig.cuts.pop())
            assert found == [], f"seed {SEED}, after {done} cuts"
            done += 1
        seconds.append(time.monotonic() - started_at)
    print(f"{done} cuts in {sum(seconds):.0f} s")


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


POINTS = [(kind, name) for kind in ("upload", "deletion") for name in KINDS[kind]]


@pytest.mark.parametrize(("kind", "name"), POINTS)
def test_a_cut_at_a_named_point_loses_nothing(rig: PowerRig, kind: str, name: str) -> None:
    ground = rig.ground
    doomed = Doomed(ground.data, (kind, name), number=signal.SIGSTOP)
    with serving(doomed) as live:
        client = client_of(live, ground.promises)
        assert client.upload(ground.agent_id, 10).status == 201
        doomed.arm()
        action = in_background(lambda: ACTIONS[kind](client, ground, doomed))
        wait_for(
            lambda: doomed.has_passed() and is_stopped(live.process.pid), f"it to be at {name}"
        )
        cut = rig.cut()
        live.process.send_signal(signal.SIGCONT)
        action.join()
    assert rig.inspect(cut) == []
    assert Inspection(ground.data, ground.promises).run() == []


@pytest.mark.parametrize("mutant", ["no_file_sync", "no_folder_sync", "synchronous_normal"])
def test_a_server_that_does_not_flush_is_caught(rig: PowerRig, mutant: str) -> None:
    work_quietly(rig, 3, mutant)
    found = [violation for cut in rig.cuts for violation in rig.inspect(cut)]
    assert any("acknowledged and is lost" in one or "upload" in one for one in found), found
