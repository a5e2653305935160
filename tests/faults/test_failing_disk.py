"""A disk that fails to write (EIO): nothing is acknowledged that it did not take."""

import os
import shutil
import signal
from pathlib import Path

from tests.faults.conftest import Ground
from tests.faults.disks import fill, make_ext4, mounted, need_disks
from tests.faults.rig import Client, Doomed, Inspection, client_of, serving
from tests.waiting import wait_for

MOST_REQUESTS = 60


def work_until_it_fails(client: Client, ground: Ground) -> list[int]:
    """Upload and execute until requests are refused; return every status."""
    statuses: list[int] = []
    while statuses[-4:] != [500] * 4 and len(statuses) < MOST_REQUESTS:
        statuses.append(client.upload(ground.agent_id, 100_000).status)
        statuses.append(client.execute(ground.agent_id, {"text": "x" * 100_000}).status)
    return statuses


def test_what_a_failing_disk_did_not_take_is_not_acknowledged(
    template: Ground, tmp_path: Path
) -> None:
    need_disks()
    # The disk is a file with holes on a file system that has no room to fill them: so are its
    # blocks that nobody wrote yet bad ones, and those that are in use good.
    with mounted("none", tmp_path / "tank", "-t", "tmpfs", "-o", "size=64m") as tank:
        image = tank / "disk.img"
        make_ext4(image, 512)
        ground = Ground(tmp_path / "disk" / "data", template.promises.copy(), template.agent_id)
        with mounted(image, tmp_path / "disk", "-o", "loop") as disk:
            shutil.copytree(template.data, ground.data)
            with serving(Doomed(ground.data)) as live:
                client = client_of(live, ground.promises)
                assert client.upload(ground.agent_id).status == 201
                os.sync()
                ballast = fill(tank)
                statuses = work_until_it_fails(client, ground)
                assert 500 in statuses
                assert set(statuses) <= {201, 500, 507}
                assert client.api.call("GET", "/health").status == 200
                live.process.send_signal(signal.SIGKILL)
                wait_for(lambda: live.process.poll() is not None, "the server to end")
            ballast.unlink()
            assert disk.exists()
        with mounted(image, tmp_path / "disk", "-o", "loop"):
            assert Inspection(ground.data, ground.promises).run() == []
