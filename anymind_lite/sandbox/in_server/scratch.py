"""A run's scratch folder on the host, where the run cannot have a file system of its own.

Runs in the server. What is in the folder is hostile: it is counted and removed through descriptors,
and no link in it is followed.
"""

import logging
import os
import tempfile
from pathlib import Path

from anymind_lite.files import TreeTooLarge, check_tree, remove_tree
from anymind_lite.sandbox.policy import Limits

logger = logging.getLogger(__name__)


class HostScratch:
    """One run's folder; made when this is, removed by `remove`.

    No quota stands behind it: `is_over` looks, now and then. What an agent holds open after it has
    deleted it is not seen. `owner_uid` is who the agent is on the host.
    """

    def __init__(self, parent: Path, owner_uid: int) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="scratch-", dir=parent))
        if os.geteuid() == 0:
            parent.chmod(0o711)  # agents pass through it
            os.chown(self.path, owner_uid, owner_uid)

    def is_over(self, limits: Limits) -> bool:
        """Tell whether more is in it than the limits let a run keep."""
        try:
            check_tree(self.path, max_entries=limits.scratch_files, max_bytes=limits.scratch_bytes)
        except TreeTooLarge:
            return True
        except OSError:
            pass  # it changes while it is read; the next look will tell
        return False

    def remove(self) -> None:
        """Remove it, or what an agent has put in its place."""
        remove_scratch(self.path)


def remove_scratch(path: Path) -> None:
    """Remove a scratch folder, or the parent of all; what cannot be removed is logged."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            remove_tree(path)
    except OSError:
        logger.exception("event=scratch_not_removed path=%s", path)
