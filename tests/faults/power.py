"""Cutting the power: what is on a disk at one instant, as another server finds it.

The data folder is on an ext4 file system in a file; that file is on XFS, where a copy of it is made
in a moment and as a whole (`cp --reflink`). What only the page cache held is not in the copy, as it
is not after a cut; ext4's journal is replayed when the copy is mounted. A cut cannot show what a
disk loses that lies about its own cache.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.conftest import Ground
from tests.faults.disks import command, make_ext4, mounted, need_disks
from tests.faults.rig import Inspection, Promises

_XFS_GIGABYTES = 6
_EXT4_MEGABYTES = 384


@dataclass(frozen=True)
class Cut:
    """The disk at one instant, and what had been promised just before."""

    image: Path
    promises: Promises


@dataclass
class PowerRig:
    """A data folder on a disk whose power can be cut any number of times."""

    folder: Path
    ground: Ground
    cuts: list[Cut] = field(default_factory=list)

    def cut(self) -> Cut:
        """Take the disk as it is now."""
        promises = self.ground.promises
        before = promises.copy()
        image = self.folder / "xfs" / f"cut-{len(self.cuts)}.img"
        command("cp", "--reflink=always", self.folder / "xfs" / "disk.img", image)
        # What was asked to be deleted until then need not be there.
        before.in_deletion |= promises.in_deletion
        self.cuts.append(Cut(image, before))
        return self.cuts[-1]

    def inspect(self, cut: Cut) -> list[str]:
        """Start a server on what a cut left, and return every violation; the cut is used up."""
        with mounted(cut.image, self.folder / "after", "-o", "loop") as disk:
            found = Inspection(disk / "data", cut.promises).run()
        cut.image.unlink()
        return found


@contextmanager
def power_rig(folder: Path, template: Ground) -> Iterator[PowerRig]:
    """Make the disks and put a data folder on them. For root; needs mkfs.xfs."""
    need_disks("mkfs.xfs")
    image = folder / "xfs.img"
    with image.open("wb") as file:
        file.truncate(_XFS_GIGABYTES << 30)
    command("mkfs.xfs", "-q", "-m", "reflink=1", image)
    with mounted(image, folder / "xfs", "-o", "loop") as xfs:
        make_ext4(xfs / "disk.img", _EXT4_MEGABYTES)
        with mounted(xfs / "disk.img", folder / "disk", "-o", "loop") as disk:
            shutil.copytree(template.data, disk / "data")
            command("sync", "-f", disk)
            ground = Ground(disk / "data", template.promises.copy(), template.agent_id)
            yield PowerRig(folder, ground)
    image.unlink()
