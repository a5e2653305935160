"""Every rig for damage, full disks, crowds and second servers finds the fault it is there for.

The rig's own check is carried out, as it stands, on servers that are mutants, and must fail, by
what it complains of. Rigs that list violations have the tests of their mutants beside them.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import live_server
from tests.faults import test_damage, test_full_disk, test_kill_points
from tests.faults.conftest import Ground
from tests.faults.disks import need_disks, small_disk
from tests.faults.rig import Inspection, driven
from tests.live_server import LiveServer, pack_agent
from tests.system import test_commands, test_front_door, test_races

Become = Callable[[str], None]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Have every server that is started from now on be a mutant, but for those of inspections."""

    def replace(mutant: str) -> None:
        monkeypatch.setattr(live_server, "PROGRAM", driven(mutants=[mutant]))

    return replace


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutant", "damage", "complaint"),
    [
        ("unchecked_database", "its beginning is garbage", "Traceback"),
        ("unchecked_database", "its middle is garbage", "DID NOT RAISE|Traceback"),
        ("guessed_database", "it is gone", "DID NOT RAISE"),
        ("guessed_database", "it has tables and no rows", "DID NOT RAISE"),
    ],
)
def test_a_server_that_starts_on_a_damaged_database_is_found(
    ground: Ground, become: Become, mutant: str, damage: str, complaint: str
) -> None:
    become(mutant)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        test_damage.test_a_damaged_database_refuses_to_start_and_stays(ground, damage)


@pytest.mark.parametrize("harm", ["a bit is flipped", "it is cut"])
def test_a_server_that_runs_what_is_damaged_is_found(
    ground: Ground, become: Become, harm: str
) -> None:
    become("unchecked_artifacts")
    with pytest.raises(AssertionError, match="The artifact is damaged on the server"):
        test_damage.test_an_execution_says_that_its_artifact_is_lost(ground, harm)


def test_a_server_that_keeps_a_damaged_queue_is_found(ground: Ground) -> None:
    queue = test_damage.leave_a_queued_build(ground)
    queue.write_bytes(b"garbage" * 3000)
    mutants = ("trusted_queue",)
    found = Inspection(ground.data, ground.promises, mutants, settle_seconds=5).run()
    assert re.search("is stuck: queued|does not start", str(found)), found


def test_a_server_whose_tokens_outlive_its_key_is_found(ground: Ground, become: Become) -> None:
    become("key_of_everybody")
    with pytest.raises(AssertionError, match="200 == 401"):
        test_damage.test_a_lost_signing_key_voids_tokens_alone_and_is_said(ground, "gone")


@pytest.mark.parametrize(
    ("mutant", "error", "complaint"),
    [
        ("unknown_lock", AssertionError, "500"),
        ("readers_that_wait", TimeoutError, "timed out"),
    ],
)
def test_a_server_that_a_lock_confuses_is_found(
    ground: Ground, become: Become, mutant: str, error: type[Exception], complaint: str
) -> None:
    become(mutant)
    with pytest.raises(error, match=complaint):
        test_damage.test_a_database_that_another_program_locks_stops_no_reader_and_nothing_for_ever(
            ground
        )


# Disks --------------------------------------------------------------------------------------------


@pytest.fixture
def small_ground(template: Ground, tmp_path: Path) -> Iterator[Ground]:
    """A data folder on a small disk of its own."""
    need_disks()
    with small_disk("tmpfs", tmp_path / "disk") as disk:
        shutil.copytree(template.data, disk / "data")
        yield Ground(disk / "data", template.promises.copy(), template.agent_id)


def test_a_server_that_does_not_know_a_full_disk_is_found(
    small_ground: Ground, become: Become
) -> None:
    become("unknown_full_disk")
    with pytest.raises(AssertionError, match="500 == 507"):
        test_full_disk.test_writes_answer_507_and_all_else_goes_on_until_there_is_room(small_ground)


def test_a_start_that_does_not_say_why_it_failed_is_found(
    small_ground: Ground, become: Become
) -> None:
    become("unexplained_start")
    with pytest.raises(AssertionError, match="Traceback"):
        test_full_disk.test_a_disk_that_is_read_only_refuses_to_start(small_ground)


# Builds and processes -----------------------------------------------------------------------------


def test_a_server_that_builds_poison_for_ever_is_found(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspection = partial(Inspection, mutants=("endless_attempts",))
    monkeypatch.setattr(test_kill_points, "Inspection", inspection)
    with pytest.raises(AssertionError, match="'ready' == 'failed'"):
        test_kill_points.test_a_build_that_kills_the_server_three_times_is_failed(ground)


def test_a_process_that_outlives_its_server_is_found(ground: Ground) -> None:
    found = Inspection(ground.data, ground.promises, ("process_left_behind",)).run()
    left = [int(pid) for pid in re.findall(r"leftover process (\d+)", str(found))]
    assert len(left) == 1, found
    os.kill(left[0], signal.SIGKILL)
    os.waitpid(left[0], 0)


# Second servers, crowds, and who goes away --------------------------------------------------------


def test_a_second_server_that_is_let_in_is_found(
    ground: Ground, become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_commands, "DEADLINE_SECONDS", 15)  # it serves, and does not end
    with LiveServer(ground.data) as live:
        become("no_instance_lock")
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            test_commands.test_a_second_server_on_the_data_folder_is_refused(live)
    assert b"Serving at" in (caught.value.stdout or b"")


def test_a_server_that_does_not_name_a_taken_port_is_found(tmp_path: Path, become: Become) -> None:
    become("unexplained_port")
    with pytest.raises(AssertionError, match="is taken"):
        test_commands.test_a_taken_port_is_named(tmp_path)


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        ("nobody_gives_way", test_front_door.test_more_connections_than_there_is_room_for),
        ("one_at_a_time", test_front_door.test_a_hundred_dripping_clients_hold_nobody_up),
    ],
)
def test_a_server_that_a_crowd_holds_up_is_found(
    tmp_path: Path, become: Become, mutant: str, check: Callable[[Path], None]
) -> None:
    become(mutant)
    with pytest.raises(TimeoutError):
        check(tmp_path)


def test_an_execution_that_ends_with_its_client_is_found(tmp_path: Path, become: Become) -> None:
    become("killed_with_its_client")
    with LiveServer(tmp_path / "data") as live:
        racer = live.api.new_user("racer")
        with pytest.raises(AssertionError, match="completed"):
            test_races.test_client_that_goes_away_does_not_stop_its_execution(racer)


def test_a_finish_that_overwrites_a_cancel_is_found(tmp_path: Path, become: Become) -> None:
    become("unguarded_finish")
    with LiveServer(tmp_path / "data") as live:
        racer = live.api.new_user("racer")
        agent_id = racer.deploy(pack_agent(test_races.QUICK))
        with pytest.raises(AssertionError, match="'completed' == 'cancelled'"):
            test_races.test_late_finish_never_overwrites_a_cancel(racer, agent_id)
