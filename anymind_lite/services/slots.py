"""Execution slots: how many agents run at once, and how many may wait for their turn."""

import threading
import time
from collections import deque
from math import inf
from types import TracebackType

from anymind_lite.errors import Overloaded


class _Turn:
    """One caller: holds a slot while `is_granted`, gets none any more once `is_abandoned`."""

    def __init__(self) -> None:
        self.is_granted = False
        self.is_abandoned = False


class SlotPool:
    """`slots` callers run, `places` wait in order, the rest are turned away at once."""

    def __init__(self, slots: int, places: int, wait_seconds: float) -> None:
        self._free = slots
        self._slots = slots
        self._places = places
        self._wait_seconds = wait_seconds
        self._waiting: deque[_Turn] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def reserve(self) -> "Reservation":
        """Take a slot, or a place in line. Raises Overloaded when there is neither."""
        with self._changed:
            if self._is_closed:
                raise Overloaded("The server is shutting down", retry_after_seconds=5)
            turn = _Turn()
            if self._free:  # then nobody waits for it: `_pass_on`
                self._free -= 1
                turn.is_granted = True
            elif len(self._waiting) < self._places:
                self._waiting.append(turn)
            else:
                raise Overloaded("All execution slots are busy", retry_after_seconds=1)
        return Reservation(self, turn)

    def open(self) -> None:
        """Take callers again after `close`."""
        with self._changed:
            self._is_closed = False

    def close(self) -> None:
        """Take no more callers; those in line are turned away."""
        with self._changed:
            self._is_closed = True
            for turn in self._waiting:
                turn.is_abandoned = True
            self._changed.notify_all()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until nobody runs or waits; tells whether that came about."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._free == self._slots and not self._waiting, timeout_seconds
            )

    @property
    def capacity(self) -> int:
        """How many callers may run or wait."""
        return self._slots + self._places

    @property
    def busy(self) -> int:
        """How many slots are taken now."""
        with self._changed:
            return self._slots - self._free

    def wait(self, turn: _Turn, *, is_limited: bool) -> bool:
        """Wait for the slot; False when the place was abandoned or the pool closed meanwhile.

        Raises Overloaded when the wait is limited and no slot came free in time.
        """
        deadline = time.monotonic() + (self._wait_seconds if is_limited else inf)
        with self._changed:
            while not turn.is_granted:
                if turn.is_abandoned:
                    return False
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise Overloaded("All execution slots are busy", retry_after_seconds=5)
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
        return True

    def abandon(self, turn: _Turn) -> None:
        """Make a waiting caller give its place up."""
        with self._changed:
            turn.is_abandoned = True
            self._changed.notify_all()

    def give_back(self, turn: _Turn) -> None:
        """Return the slot or the place; the next in line gets the slot."""
        with self._changed:
            if turn.is_granted:
                turn.is_granted = False
                self._pass_on()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            self._changed.notify_all()

    def _pass_on(self) -> None:
        """Give a slot to the first who still wants it; who has left the line has yet to notice."""
        for turn in self._waiting:
            if not turn.is_abandoned:
                turn.is_granted = True
                self._waiting.remove(turn)
                return
        self._free += 1


class Reservation:
    """A slot or a place in line, given back at the end of the `with` block."""

    def __init__(self, pool: SlotPool, turn: _Turn) -> None:
        self._pool = pool
        self._turn = turn

    @property
    def has_slot(self) -> bool:
        """Whether it may run now, without waiting."""
        return self._turn.is_granted

    def wait(self, *, is_limited: bool = True) -> bool:
        """Wait for the slot; see `SlotPool.wait`."""
        return self._pool.wait(self._turn, is_limited=is_limited)

    def abandon(self) -> None:
        """End the wait from another thread."""
        self._pool.abandon(self._turn)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._pool.give_back(self._turn)
