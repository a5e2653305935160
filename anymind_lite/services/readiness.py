"""Whether the server can do its work now, for whoever sends it requests.

What is found is told to strangers: each check says in a word or two what is wrong, and no more.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peewee import PeeweeException

from anymind_lite.models import User
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.tasks import BuildQueue

logger = logging.getLogger(__name__)

OK = "ok"
# Below it the disk of the data is as good as full.
DISK_RESERVE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Readiness:
    """What was found: `ok` for each part, or what is wrong with it."""

    checks: Mapping[str, str]
    is_stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the server can do all of its work."""
        return not self.is_stopping and all(found == OK for found in self.checks.values())


def check_readiness(
    *, build_queue: BuildQueue, sandbox: Supervisor, folders: tuple[Path, ...], is_stopping: bool
) -> Readiness:
    """Look at every part that may fail while the server answers; changes nothing."""
    checks = {
        "database": _database(),
        "queue": OK if build_queue.is_alive else "not running",
        "sandbox": _sandbox(sandbox),
        "disk": _disk(folders),
    }
    wrong = {part: found for part, found in checks.items() if found != OK}
    if wrong:
        logger.warning("event=not_ready checks=%s", wrong)
    return Readiness(checks, is_stopping)


def _database() -> str:
    try:
        User.select(User.id).limit(1).scalar()
    except PeeweeException:
        return "cannot be read"
    return OK


def _sandbox(sandbox: Supervisor) -> str:
    if sandbox.refusal:
        return "refuses to run agents"
    return OK if sandbox.is_serving else "being started again"


def _disk(folders: tuple[Path, ...]) -> str:
    try:
        is_enough = all(_free_bytes(folder) >= DISK_RESERVE_BYTES for folder in folders)
    except OSError:
        return "cannot be reached"
    return OK if is_enough else "nearly full"


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
