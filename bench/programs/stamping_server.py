"""The server, with a stamp of time at two places: `stamping_server.py FILE serve ...`.

Stamped are the hint that a version is queued, and the moment when a build owns its row.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from anymind_lite.cli import main
from anymind_lite.services import builds
from anymind_lite.tasks import BuildQueue

_file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_enqueue, _mark_building = BuildQueue.enqueue, builds.mark_building


def _stamp(what: str, version_id: int) -> None:
    os.write(_file, f"{what} {version_id} {time.monotonic()}\n".encode())


def _stamped_enqueue(queue: BuildQueue, version_id: int) -> None:
    _stamp("enqueued", version_id)
    _enqueue(queue, version_id)


def _stamped_mark_building(version_id: int, claim: str) -> bool:
    is_ours = _mark_building(version_id, claim)
    if is_ours:
        _stamp("claimed", version_id)
    return is_ours


_queue: Any = BuildQueue  # what mypy would not let be patched
_queue.enqueue = _stamped_enqueue
builds.mark_building = _stamped_mark_building
main()
