"""Group commit: what several threads write at the same time is committed as one transaction.

A durable commit waits for the disk, some milliseconds for one row as for thirty. Threads take turns
in the order in which they come. Who leaves while others wait leaves the transaction open to the
next one; the last commits it for all, and each returns, or fails, when that is done. So nobody is
told what is not committed, and none but a later part sees it. Each one's part can be undone alone.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Who comes later finds the group closed: the first one's wait has a bound.
_OPEN_SECONDS = 0.005


class GroupFailed(Exception):
    """Nothing of the group is written; the cause is the error that one of it met."""


class Steps(Protocol):
    """What is done with the one connection that writes. All raise errors of the database."""

    def begin(self, *, is_durable: bool, since: float) -> None:
        """Begin a transaction, whatever was left open before; waited for since that instant."""

    def commit(self) -> None:
        """Commit it."""

    def roll_back(self) -> None:
        """Undo all of it."""

    def begin_part(self) -> None:
        """Begin what can be undone alone."""

    def end_part(self) -> None:
        """Keep it as far as the transaction is kept."""

    def undo_part(self) -> None:
        """Undo it."""

    @property
    def is_open(self) -> bool:
        """Whether there is a transaction; SQLite ends it by itself at some errors."""


class Turns:
    """Lets one thread in at a time, in the order in which they came; not again one that is in.

    threading's own locks are taken by whoever asks at the right moment, mostly the thread that has
    just left: others wait for as long as chance will have it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments
        self._is_taken = False
        self._line: deque[threading.Lock] = deque()  # each is held until it is its turn

    def acquire(self, timeout: float) -> bool:
        """Come in, or wait in line for so many seconds; tells whether it is this thread's turn."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._line.append(turn)
        return turn.acquire(timeout=timeout) or self._leave_line(turn)

    def _leave_line(self, turn: threading.Lock) -> bool:
        """Wait no more; tells whether it has become its turn just now."""
        with self._lock:
            if turn not in self._line:
                return True
            self._line.remove(turn)
            return False

    def pass_on(self) -> bool:
        """Leave to the first in line; False when nobody waits, and the turn is kept."""
        with self._lock:
            if not self._line:
                return False
            self._line.popleft().release()
            return True

    def release(self) -> None:
        """Leave; the first in line is in when this returns."""
        with self._lock:
            if self._line:
                self._line.popleft().release()
            else:
                self._is_taken = False


class _Group:
    """Parts that are committed together."""

    def __init__(self, *, is_durable: bool) -> None:
        self.is_durable = is_durable
        self.size = 0
        self.error: BaseException | None = None
        self._opened_at = time.monotonic()
        self._has_ended = False
        # Passed from one to the next of those who wait, each woken once. An Event is two locks and
        # more, and its condition is taken again by all whom it wakes.
        self._end = threading.Lock()
        self._end.acquire()

    @property
    def takes_more(self) -> bool:
        """Whether it may stay open for whoever comes next."""
        return self.error is None and time.monotonic() - self._opened_at < _OPEN_SECONDS

    def end(self) -> None:
        """Tell all who wait; once, when `error` says what came of it."""
        self._has_ended = True
        self._end.release()

    def wait(self, own_error: BaseException | None = None) -> None:
        """Wait until it is committed. Raises GroupFailed, but not for the waiter's own error."""
        if not self._has_ended:
            with self._end:
                pass
        if self.error is not None and self.error is not own_error:
            raise GroupFailed(str(self.error)) from self.error


class GroupCommit:
    """Carries out transactions through one connection."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._turns = Turns()
        self._open: _Group | None = None  # for whose turn it is

    @contextmanager
    def transaction(self, *, is_durable: bool, timeout: float) -> Iterator[None]:
        """Run the block as a transaction: when this ends, all of it is committed, or nothing.

        Raises TimeoutError when its turn does not come, GroupFailed, and what `Steps.begin` does.
        """
        since = time.monotonic()
        if not self._turns.acquire(timeout):
            raise TimeoutError
        group: _Group | None = None
        try:
            group = self._join(is_durable=is_durable, since=since)
            with self._part_of(group):
                yield
        except BaseException as exc:
            self._leave(group)
            if group is not None and group.size:
                group.wait(exc)  # an earlier part may have written what this one fails for
            raise
        self._leave(group)
        group.wait()

    def _join(self, *, is_durable: bool, since: float) -> _Group:
        """Return the open group, unless it is not as durable as it must be, or a new one."""
        group, self._open = self._open, None
        if group is not None and is_durable and not group.is_durable:
            self._end(group)
            group = None
        if group is None:
            self._steps.begin(is_durable=is_durable, since=since)
            group = _Group(is_durable=is_durable)
        return group

    @contextmanager
    def _part_of(self, group: _Group) -> Iterator[None]:
        """Run the block, and undo what it did, and no more, when it raises."""
        is_first = group.size == 0
        if not is_first:
            self._steps.begin_part()
        try:
            yield
            if not is_first:
                self._steps.end_part()
        except BaseException as exc:
            self._undo(group, exc)
            raise
        group.size += 1

    def _undo(self, group: _Group, cause: BaseException) -> None:
        try:
            if not self._steps.is_open:
                group.error = cause  # full disk, input or output error: everybody's part is undone
            elif group.size:
                self._steps.undo_part()
            else:
                self._steps.roll_back()
        except Exception:  # noqa: BLE001 - what matters is why it had to be undone
            group.error = cause

    def _leave(self, group: _Group | None) -> None:
        """Leave the turn, and a group with something in it to the next one, or commit it."""
        if group is not None and group.size:
            if group.takes_more:
                self._open = group
                if self._turns.pass_on():
                    return
                self._open = None
            self._end(group)
        self._turns.release()

    def _end(self, group: _Group) -> None:
        """Commit a group, unless all of it is undone already. Its parts hear of errors."""
        try:
            if group.error is None:
                self._steps.commit()
        except BaseException as exc:  # noqa: BLE001 - raised by whoever waits for the group
            group.error = exc
        with contextlib.suppress(Exception):  # `begin` tries again
            if self._steps.is_open:
                self._steps.roll_back()
        group.end()
