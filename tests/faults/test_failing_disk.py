"""A disk that fails to write (EIO): nothing is acknowledged that it did not take."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Ground
from tests.faults.disks import command, fill, make_ext4, mounted, need_disks
from tests.faults.rig import Client, Doomed, Inspection, client_of, serving
from tests.waiting import wait_for

MOST_REQUESTS = 30
REFUSED = {500, 507}


def work_until_it_fails(client: Client, ground: Ground) -> list[int]:
    """Upload and execute until requests are refused; return every status."""
    statuses: list[int] = []
    while len(statuses) < MOST_REQUESTS and not is_refused_for_good(statuses):
        statuses.append(client.upload(ground.agent_id, 100_000).status)
        statuses.append(client.execute(ground.agent_id, {"text": "x" * 100_000}).status)
    return statuses


def is_refused_for_good(statuses: list[int]) -> bool:
    return len(statuses) >= 4 and set(statuses[-4:]) <= REFUSED


def make_disk(image: Path, *, has_journal: bool) -> None:
    """Make a disk that is a file with holes: on a file system without room, holes are bad blocks.

    mkfs leaves most of the journal a hole. ext4 becomes read-only at the first commit then; with a
    journal that takes them, names and sizes are written, and what the files hold is not.
    """
    make_ext4(image, 64)
    if has_journal:
        with image.open("r+b") as file:
            while piece := file.read(1 << 20):
                file.seek(-len(piece), os.SEEK_CUR)
                file.write(piece)


def wrong_on_a_failing_disk(
    template: Ground, tmp_path: Path, *mutants: str, has_journal: bool = True
) -> list[str]:
    """Have a server work when its disk takes nothing more; return what is wrong afterwards."""
    need_disks("fstrim")
    with mounted("none", tmp_path / "tank", "-t", "tmpfs", "-o", "size=80m") as tank:
        image = tank / "disk.img"
        make_disk(image, has_journal=has_journal)
        ground = Ground(tmp_path / "disk" / "data", template.promises.copy(), template.agent_id)
        with mounted(image, tmp_path / "disk", "-o", "loop") as disk:
            shutil.copytree(template.data, ground.data)
            with serving(Doomed(ground.data, mutants=mutants)) as live:
                client = client_of(live, ground.promises)
                assert client.upload(ground.agent_id).status == 201
                os.sync()
                command("fstrim", disk)  # makes holes of what is free
                ballast = fill(tank)
                statuses = work_until_it_fails(client, ground)
                assert 500 in statuses or mutants
                assert set(statuses) <= {201, *REFUSED}
                assert client.api.call("GET", "/health").status == 200
                live.process.send_signal(signal.SIGKILL)
                wait_for(lambda: live.process.poll() is not None, "the server to end")
            ballast.unlink()
        with mounted(image, tmp_path / "disk", "-o", "loop"):
            return Inspection(ground.data, ground.promises).run()


@pytest.mark.parametrize("has_journal", [True, False], ids=["files", "journal"])
def test_what_a_failing_disk_did_not_take_is_not_acknowledged(
    template: Ground, tmp_path: Path, has_journal: bool
) -> None:
    assert wrong_on_a_failing_disk(template, tmp_path, has_journal=has_journal) == []


def test_a_server_that_hears_of_no_failure_is_found(template: Ground, tmp_path: Path) -> None:
    found = wrong_on_a_failing_disk(template, tmp_path, "unheard_failures")
    assert any("acknowledged and is lost" in one or "upload" in one for one in found), found
