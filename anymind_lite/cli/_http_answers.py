"""How much answers that wait for their readers may take of the disk.       (hostile input)

waitress keeps what a client does not read in a temporary file, on the disk of the database: who
asks for much and reads nothing must not take the room that everybody's writes need.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

from anymind_lite.storage import free_bytes

# With less than the reserve left nobody's writes begin, but somebody must be able to list what is
# to be deleted: this share of what is free may be taken then.
_SHARE_IN_NEED = 16
_WAIT_SECONDS = 2.0


class AnswerRoom:
    """Says how much all answers together may take now, and lets those in that fit.

    `kept` tells how much they take; `make_room` has some of them ended soon, elsewhere.
    """

    def __init__(
        self,
        *,
        reserve_bytes: int,
        measure: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.kept: Callable[[], int] = lambda: 0
        self.make_room: Callable[[], None] = lambda: None
        self._reserve_bytes = reserve_bytes
        self._measure = measure
        self._being_written = 0
        self._wanted = 0
        self._changed = threading.Condition()

    def bound(self, kept: int) -> float:
        """Return how much may be kept, measured now, where so much is kept.

        A third of what is above the reserve without it: half of what stays free above it.
        """
        try:
            without = self._measure(Path(tempfile.gettempdir())) + kept
        except OSError:
            return inf  # nothing can be written there, whatever this says
        spare = without - self._reserve_bytes
        return spare // 3 if spare >= 0 else without // _SHARE_IN_NEED

    def excess(self, kept: int) -> float:
        """Return how much must go for what is kept, written now and waited for to fit."""
        return kept + self._being_written + self._wanted - self.bound(kept)

    @contextmanager
    def taken(self, count: int) -> Iterator[bool]:
        """Take so many bytes while they are written; False where they cannot be had.

        Waits a moment for others to be ended in their place.
        """
        is_taken = self._take(count)
        try:
            yield is_taken
        finally:
            if is_taken:
                with self._changed:
                    self._being_written -= count

    def _take(self, count: int) -> bool:
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._changed:
            while not self._fits(count):
                seconds = deadline - time.monotonic()
                if seconds <= 0 or count > self.bound(self.kept()):
                    return False
                self._wait_for_room(count, seconds)
            self._being_written += count
        return True

    def _fits(self, count: int) -> bool:
        kept = self.kept()
        return kept + self._being_written + count <= self.bound(kept)

    def _wait_for_room(self, count: int, seconds: float) -> None:
        self._wanted += count
        try:
            self.make_room()
            self._changed.wait(seconds)
        finally:
            self._wanted -= count

    def tell_change(self) -> None:
        """Wake those that wait: some were ended."""
        with self._changed:
            self._changed.notify_all()


def bytes_in_files(buffers: Iterable[Any]) -> int:
    """Return what waitress's buffers take on the disk; what was read of a file is in it still."""
    return sum(_file_bytes(one) for one in buffers if getattr(one, "overflowed", False))


def _file_bytes(buffer: Any) -> int:
    with contextlib.suppress(OSError, ValueError):  # closed just now
        return os.fstat(buffer.buf.file.fileno()).st_size
    return 0
