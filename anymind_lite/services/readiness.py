"""Whether the server can do its work now, for whoever sends it requests.

What is found is told to strangers: each check says in a word or two what is wrong, and no more.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from peewee import PeeweeException

from anymind_lite.database import database
from anymind_lite.errors import DiskFull
from anymind_lite.models import User
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.storage import DiskReserve
from anymind_lite.tasks import BuildQueue

logger = logging.getLogger(__name__)

OK = "ok"


@dataclass(frozen=True)
class Readiness:
    """What was found: `ok` for each part, or what is wrong with it."""

    checks: Mapping[str, str]
    is_stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the server can do all of its work."""
        return not self.is_stopping and all(found == OK for found in self.checks.values())


class ReadinessLog:
    """Writes what is wrong into the log when it changes, however often strangers ask."""

    def __init__(self) -> None:
        self._wrong: Mapping[str, str] = {}
        self._lock = threading.Lock()

    def note(self, checks: Mapping[str, str]) -> None:
        """Tell what is wrong now, or that nothing is any more, if it was not told last."""
        wrong = {part: found for part, found in checks.items() if found != OK}
        with self._lock:
            if wrong == self._wrong:
                return
            self._wrong = wrong
        if wrong:
            logger.warning("event=not_ready checks=%s", wrong)
        else:
            logger.info("event=ready_again")


def check_readiness(
    *,
    build_queue: BuildQueue,
    sandbox: Supervisor,
    disk: DiskReserve,
    is_stopping: bool,
    log: ReadinessLog,
) -> Readiness:
    """Look at every part that may fail while the server answers; changes nothing."""
    checks = {
        "database": _database(),
        "queue": OK if build_queue.is_alive else "not running",
        "sandbox": _sandbox(sandbox),
        "disk": _disk(disk),
    }
    log.note(checks)
    return Readiness(checks, is_stopping)


def _database() -> str:
    try:
        User.select(User.id).limit(1).scalar()
    except PeeweeException:
        return "cannot be read"
    return "damaged" if database.damage else OK


def _sandbox(sandbox: Supervisor) -> str:
    if sandbox.refusal:
        return "refuses to run agents"
    return OK if sandbox.is_serving else "being started again"


def _disk(disk: DiskReserve) -> str:
    try:
        disk.require()
    except DiskFull:
        return "nearly full"
    except OSError:
        return "cannot be reached"
    return OK
