"""A run's scratch folder on the host, where the run cannot have a file system of its own.

Runs in the server. What is in the folder is hostile: it is counted and removed through descriptors,
and no link in it is followed.
"""

import logging
import os
import tempfile
from pathlib import Path

from anymind_lite.files import TreeTooLarge, check_tree, remove_tree
from anymind_lite.sandbox.policy import MEGABYTE, Limits
from anymind_lite.sandbox.protocol import let_agents_pass

logger = logging.getLogger(__name__)

# Half of the disk's room may go during a run, and at least so many times what it may keep: others
# write as well.
_DISKS_SHARE = 8


class HostScratch:
    """One run's folder; made when this is, removed by `remove`.

    No quota stands behind it: `fault` looks, now and then. What an agent holds open or mapped after
    it has deleted it is not seen there, but the disk's room is looked at too. `owner_uid` is who
    the agent is on the host.
    """

    def __init__(self, parent: Path, owner_uid: int) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="scratch-", dir=parent))
        if os.geteuid() == 0:
            let_agents_pass(parent)
            os.chown(self.path, owner_uid, owner_uid)
        self._room_at_start = _room(self.path)

    def fault(self, limits: Limits) -> str:
        """Return why the run must end, as a sentence; "" while it keeps to its limits."""
        lost = self._room_at_start - _room(self.path)
        # Nobody can tell who took it, so this ends neighbours too: only to save the disk itself.
        if lost > max(_DISKS_SHARE * limits.scratch_bytes, self._room_at_start // 2):
            return f"The disk lost {lost // MEGABYTE:,} MB of its room while the agent ran."
        try:
            check_tree(self.path, max_entries=limits.scratch_files, max_bytes=limits.scratch_bytes)
        except TreeTooLarge:
            return (
                f"The agent kept more than {limits.scratch_bytes // MEGABYTE} MB or "
                f"{limits.scratch_files:,} files in its scratch folder, or nested it too deep."
            )
        except OSError:
            pass  # it changes while it is read; the next look will tell
        return ""

    def remove(self) -> None:
        """Remove it, or what an agent has put in its place."""
        remove_scratch(self.path)


def _room(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def remove_scratch(path: Path) -> None:
    """Remove a scratch folder, or the parent of all; what cannot be removed is logged."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            remove_tree(path)
    except OSError:
        logger.exception("event=scratch_not_removed path=%s", path)
