"""Generated schedules of callers, limits and ends against the slot pool, looked at in each step.

`ANYMIND_FUZZ_SECONDS=600` runs them for ten minutes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anymind_lite.errors import AgentBusy, Overloaded
from anymind_lite.services.slots import Reservation, SlotPool
from tests.fuzzing import fuzz, needs_hypothesis

needs_hypothesis()

from hypothesis import strategies as st  # noqa: E402 - after it is known to be there

# An owner and its limit, as one version or another says it, or a deed and whose turn it is.
ARRIVALS = st.tuples(st.integers(1, 3), st.sampled_from([None, 1, 1, 2, 3]))
DEEDS = st.tuples(
    st.sampled_from(["leave", "leave", "abandon", "abandon", "reopen"]), st.integers(0, 30)
)
SCHEDULES = st.tuples(
    st.integers(1, 5), st.integers(0, 12), st.lists(ARRIVALS | DEEDS, min_size=10, max_size=60)
)


@dataclass(eq=False)
class Caller:
    """Somebody at the pool; one who `is_gone` wants no slot, but has a place until they leave."""

    owner: int
    most: int | None
    reservation: Reservation | None = None
    is_gone: bool = False

    @property
    def is_running(self) -> bool:
        return self.reservation is not None and self.reservation.has_slot


class Model:
    """A pool and those at it in the order of their arrival; says who must run after each step."""

    def __init__(self, slots: int, places: int) -> None:
        self.slots, self.places = slots, places
        self.pool = SlotPool(slots, places, wait_seconds=0)
        self.callers: list[Caller] = []

    def who_must_run(self) -> list[Caller]:
        """Return who runs now, and who does so once no free slot is left that somebody may have."""
        chosen = [caller for caller in self.callers if caller.is_running]
        while len(chosen) < self.slots and (one := next(self._eligible(chosen), None)):
            chosen.append(one)
        return chosen

    def _eligible(self, chosen: list[Caller]) -> Iterator[Caller]:
        """Yield the first in line of each owner who has room under their limit, in their order."""
        running = Counter(caller.owner for caller in chosen)
        seen = set()
        for caller in self.callers:
            if caller in chosen or caller.is_gone or caller.owner in seen:
                continue
            seen.add(caller.owner)
            if caller.most is None or running[caller.owner] < caller.most:
                yield caller

    def check(self, must_run: list[Caller]) -> None:
        running = [caller for caller in self.callers if caller.is_running]
        assert set(running) == set(must_run)
        assert self.pool.busy == len(running) <= self.slots
        assert len(self.callers) - len(running) <= self.places

    def arrive(self, owner: int, most: int | None) -> None:
        newcomer = Caller(owner, most)
        self.callers.append(newcomer)
        must_run = self.who_must_run()
        refusal = None if newcomer in must_run else self._refusal(newcomer, must_run)
        raised: type[Overloaded] | None = None
        try:
            newcomer.reservation = self.pool.reserve(owner, most)
        except Overloaded as error:
            raised = type(error)
            self.callers.remove(newcomer)
        assert raised is refusal
        self.check(must_run)

    def _refusal(self, newcomer: Caller, must_run: list[Caller]) -> type[Overloaded] | None:
        waiting = [caller for caller in self.callers if caller not in must_run]
        of_owner = [caller for caller in waiting if caller.owner == newcomer.owner]
        if len(waiting) > self.places:
            return AgentBusy if len(must_run) < self.slots else Overloaded
        has_share = newcomer.most is None or len(of_owner) <= max(1, self.places // 2)
        return None if has_share else AgentBusy

    def leave(self, caller: Caller) -> None:
        self.callers.remove(caller)
        must_run = self.who_must_run()
        assert caller.reservation is not None
        with caller.reservation:
            pass
        self.check(must_run)

    def abandon(self, caller: Caller) -> None:
        caller.is_gone = not caller.is_running
        must_run = self.who_must_run()
        assert caller.reservation is not None
        caller.reservation.abandon()
        self.check(must_run)

    def reopen(self, _: Caller) -> None:
        must_run = [caller for caller in self.callers if caller.is_running]
        self.pool.close()
        self.pool.open()
        for caller in self.callers:
            caller.is_gone = not caller.is_running
        self.check(must_run)

    def drain(self) -> None:
        """Let all who run end, again and again: whoever has not gone must come to run."""
        while self.callers:
            running = [caller for caller in self.callers if caller.is_running]
            gone = [caller for caller in self.callers if caller.is_gone]
            assert running or gone
            self.leave((running or gone)[0])
        assert self.pool.wait_until_idle(0)


def follow(schedule: tuple[int, int, list[tuple[int | str, int | None]]]) -> None:
    slots, places, steps = schedule
    model = Model(slots, places)
    deeds: dict[str, Callable[[Caller], None]] = {
        "leave": model.leave,
        "abandon": model.abandon,
        "reopen": model.reopen,
    }
    for what, number in steps:
        if isinstance(what, int):
            model.arrive(what, number)
        elif model.callers:
            deeds[what](model.callers[(number or 0) % len(model.callers)])
    model.drain()


def test_every_free_slot_goes_to_the_first_who_may_have_it() -> None:
    assert fuzz(SCHEDULES, follow, usual_seconds=2.0) > 0
