"""Execution slots: how many agents run at once, and how many may wait for their turn.

Callers have an owner, the agent, and may bring the most of its executions that run at once. Then
such a caller waits in line although a slot is free, and those behind it may go first; but nobody is
passed over by a later caller of the same owner.

Callers are sent by users, who share what there is: a slot goes to the user who has the fewest, and
among them to the first in line, and the last quarter of the line is for users who do not wait yet.
One user alone has all slots and three quarters of the line.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from anymind_lite.errors import AgentBusy, Overloaded

_MAX_RETRY_AFTER_SECONDS = 60
_SHUTDOWN_SECONDS = 5


@dataclass(eq=False)
class _Turn:
    """One caller: holds a slot while `is_granted`, gets none any more once `is_abandoned`."""

    owner: int | None
    most: int | None
    user: int | None
    is_granted: bool = False
    is_abandoned: bool = False
    granted_at: float = 0.0


class SlotPool:
    """`slots` callers run, `places` wait in order, the rest are turned away at once.

    Whenever the lock is free, there is no free slot or nobody in line may have it: every change
    ends with `_pass_on`, which sees to that.
    """

    def __init__(self, slots: int, places: int, wait_seconds: float) -> None:
        self._free = slots
        self._slots = slots
        self._places = places
        self._wait_seconds = wait_seconds
        self._waiting: deque[_Turn] = deque()
        self._running: Counter[int | None] = Counter()
        self._running_of_user: Counter[int | None] = Counter()
        self._usual_seconds = 0.0  # how long slots were held lately
        self._is_closed = False
        self._changed = threading.Condition()

    def reserve(
        self, owner: int | None = None, most: int | None = None, user: int | None = None
    ) -> "Reservation":
        """Take a slot, or a place in line. Raises Overloaded when there is neither.

        With `most` it runs only as one of so many of its owner's, whatever the others brought, and
        in the line they have at most half the places. Raises AgentBusy when this is what leaves no
        room.
        """
        with self._changed:
            if self._is_closed:
                raise Overloaded("The server is shutting down", _SHUTDOWN_SECONDS)
            turn = _Turn(owner, most, user)
            self._waiting.append(turn)
            self._pass_on()
            if not turn.is_granted and (refusal := self._refusal(turn)) is not None:
                self._waiting.remove(turn)
                raise refusal
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
    def is_closed(self) -> bool:
        """Whether callers are turned away for good."""
        return self._is_closed

    @property
    def busy(self) -> int:
        """How many slots are taken now."""
        with self._changed:
            return self._slots - self._free

    def wait(self, turn: _Turn, *, is_limited: bool) -> bool:
        """Wait for the slot; False when the place was abandoned or the pool closed meanwhile.

        Raises Overloaded, or AgentBusy, when the wait is limited and no slot came free in time.
        """
        seconds = self._wait_seconds if is_limited else None
        with self._changed:
            if not self._changed.wait_for(lambda: turn.is_granted or turn.is_abandoned, seconds):
                raise self._held_up(turn)
            return turn.is_granted

    def abandon(self, turn: _Turn) -> None:
        """Make a waiting caller give its place up."""
        with self._changed:
            turn.is_abandoned = True
            self._pass_on()  # it may have held up those behind it
            self._changed.notify_all()

    def give_back(self, turn: _Turn) -> None:
        """Return the slot or the place; whoever may run by that gets a slot."""
        with self._changed:
            if turn.is_granted:
                self._take_back(turn)
            elif turn in self._waiting:
                self._waiting.remove(turn)
            self._pass_on()
            self._changed.notify_all()

    # What follows is called with the lock held. ---------------------------------------------------

    def _pass_on(self) -> None:
        """Give free slots to the first in line who may run, until there are none of either."""
        while self._free and (turn := self._next_turn()) is not None:
            self._waiting.remove(turn)
            self._free -= 1
            self._running[turn.owner] += 1
            self._running_of_user[turn.user] += 1
            turn.is_granted, turn.granted_at = True, time.monotonic()

    def _next_turn(self) -> _Turn | None:
        """Return who gets the next slot: of the user with the fewest, the first in line."""
        return min(
            self._who_may_run(), key=lambda turn: self._running_of_user[turn.user], default=None
        )

    def _who_may_run(self) -> Iterator[_Turn]:
        """Yield those who still want a slot and may run, behind none of the same owner.

        Without that order an owner's callers with a higher limit, as a new version brings, could
        keep one with a lower limit waiting for ever.
        """
        passed: set[int | None] = set()
        for turn in self._waiting:
            if turn.is_abandoned or turn.owner in passed:  # has left, and has yet to notice
                continue
            if not self._is_at_limit(turn):
                yield turn
            if turn.owner is not None:
                passed.add(turn.owner)

    def _take_back(self, turn: _Turn) -> None:
        turn.is_granted = False
        self._free += 1
        for running, key in ((self._running, turn.owner), (self._running_of_user, turn.user)):
            running[key] -= 1
            if not running[key]:
                del running[key]  # or it would grow with every agent there ever was
        held_seconds = time.monotonic() - turn.granted_at
        self._usual_seconds += (held_seconds - self._usual_seconds) / 8

    def _is_at_limit(self, turn: _Turn) -> bool:
        return turn.most is not None and self._running[turn.owner] >= turn.most

    def _refusal(self, turn: _Turn) -> Overloaded | None:
        """Return why the last in line may not stay, or None where it may."""
        others = len(self._waiting) - 1
        if others >= self._places:
            return self._held_up(turn)
        if others >= self._places - self._places // 4 and self._waits_already(turn):
            return self._held_up(turn)
        if turn.most is not None and self._waiting_of(turn.owner) > max(1, self._places // 2):
            return self._busy_agent(turn)
        return None

    def _held_up(self, turn: _Turn) -> Overloaded:
        """Return what keeps one in line from running."""
        if self._free:  # then it is the limit of its owner's first in line: `_next_turn`
            line = (one for one in self._waiting if not one.is_abandoned)
            return self._busy_agent(next((one for one in line if one.owner == turn.owner), turn))
        seconds = self._seconds_for(len(self._waiting), self._slots)
        return Overloaded("All execution slots are busy", seconds)

    def _busy_agent(self, turn: _Turn) -> AgentBusy:
        width = min(turn.most or self._slots, self._slots)
        return AgentBusy(
            f"The agent's concurrency is {turn.most}, and others of its executions come first",
            self._seconds_for(self._waiting_of(turn.owner), width),
        )

    def _waits_already(self, turn: _Turn) -> bool:
        return turn.user is not None and any(
            one.user == turn.user and one is not turn for one in self._waiting
        )

    def _waiting_of(self, owner: int | None) -> int:
        return sum(turn.owner == owner for turn in self._waiting)

    def _seconds_for(self, callers: int, width: int) -> int:
        """Estimate when so many callers are through, `width` at once; whole seconds, at least 1."""
        seconds = math.ceil(self._usual_seconds * callers / max(1, width))
        return max(1, min(seconds, _MAX_RETRY_AFTER_SECONDS))


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
