"""Execution slots: who runs, who waits, who is turned away."""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from anymind_lite.errors import AgentBusy, Overloaded
from anymind_lite.services.slots import Reservation, SlotPool
from tests.waiting import DEADLINE_SECONDS


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def result_of(future: Future[bool]) -> bool:
    return future.result(DEADLINE_SECONDS)


def pool_of(slots: int, places: int, wait_seconds: float = DEADLINE_SECONDS) -> SlotPool:
    return SlotPool(slots, places, wait_seconds)


def leave(reservation: Reservation) -> None:
    with reservation:
        pass


def test_slots_then_places_are_given_and_then_nothing() -> None:
    pool = pool_of(2, 1)
    reservations = [pool.reserve() for _ in range(3)]
    assert [one.has_slot for one in reservations] == [True, True, False]
    assert pool.busy == 2
    with pytest.raises(Overloaded, match="busy") as caught:
        pool.reserve()
    assert caught.value.retry_after_seconds > 0


def test_a_slot_is_not_waited_for() -> None:
    assert pool_of(1, 0).reserve().wait()


def test_an_end_gives_the_slot_back_even_when_the_block_raises() -> None:
    pool = pool_of(1, 0)

    def fail() -> None:
        with pool.reserve() as reservation:
            assert reservation.has_slot
            raise ValueError("inside")

    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            fail()
    assert pool.busy == 0


def test_slots_pass_on_in_the_order_of_arrival() -> None:
    pool = pool_of(1, 5)
    line = [pool.reserve() for _ in range(6)]
    for place in range(6):
        assert [turn.has_slot for turn in line].index(True) == place
        assert pool.busy == 1
        assert line[place].wait()
        leave(line[place])


def test_a_newcomer_does_not_overtake_the_line() -> None:
    pool = pool_of(1, 2)
    first, second = pool.reserve(), pool.reserve()
    with first:
        pass
    assert not pool.reserve().has_slot
    assert second.has_slot


def test_a_waiter_is_woken_by_the_end_before_it(threads: ThreadPoolExecutor) -> None:
    pool = pool_of(1, 1)
    with pool.reserve():
        second = pool.reserve()
        waiter = threads.submit(second.wait)
    assert result_of(waiter)


def test_who_leaves_the_line_is_passed_over() -> None:
    pool = pool_of(1, 2)
    first, second, third = (pool.reserve() for _ in range(3))
    leave(second)
    leave(first)
    assert third.has_slot
    leave(third)
    assert pool.wait_until_idle(0)


def test_leaving_twice_gives_one_slot_back() -> None:
    pool = pool_of(2, 0)
    first, _second = pool.reserve(), pool.reserve()
    leave(first)
    leave(first)
    assert pool.busy == 1


@pytest.mark.parametrize(
    "end_wait",
    [lambda pool, turn: turn.abandon(), lambda pool, turn: pool.close()],
    ids=["abandon", "close"],
)
class TestEndOfTheWait:
    def test_waiter_is_sent_away(
        self, threads: ThreadPoolExecutor, end_wait: Callable[[SlotPool, Reservation], None]
    ) -> None:
        pool = pool_of(1, 1)
        first, second = pool.reserve(), pool.reserve()
        waiter = threads.submit(second.wait)
        end_wait(pool, second)
        assert result_of(waiter) is False
        leave(second)
        leave(first)
        assert pool.busy == 0

    def test_waiter_that_has_not_looked_yet_gets_no_slot_afterwards(
        self, end_wait: Callable[[SlotPool, Reservation], None]
    ) -> None:
        pool = pool_of(1, 1)
        first, second = pool.reserve(), pool.reserve()
        end_wait(pool, second)
        leave(first)
        assert second.wait() is False
        leave(second)
        assert pool.wait_until_idle(0)

    def test_who_has_a_slot_keeps_it(
        self, end_wait: Callable[[SlotPool, Reservation], None]
    ) -> None:
        pool = pool_of(1, 0)
        running = pool.reserve()
        end_wait(pool, running)
        assert running.wait()
        assert pool.busy == 1


def test_an_abandoned_place_does_not_stop_those_behind_it() -> None:
    pool = pool_of(1, 2)
    first, second, third = (pool.reserve() for _ in range(3))
    second.abandon()
    leave(first)
    assert third.has_slot


def test_newcomer_gets_the_slot_that_an_abandoned_place_did_not_take() -> None:
    pool = pool_of(1, 2)
    first, second = pool.reserve(), pool.reserve()
    second.abandon()
    leave(first)
    assert pool.reserve().has_slot


def test_idle_is_only_whom_everybody_has_left() -> None:
    pool = pool_of(1, 1)
    first, second = pool.reserve(), pool.reserve()
    pool.close()
    leave(first)
    assert not pool.wait_until_idle(0)  # the second has yet to write down what became of it
    leave(second)
    assert pool.wait_until_idle(0)


def test_closed_pool_takes_nobody_until_it_is_opened_again() -> None:
    pool = pool_of(1, 1)
    pool.close()
    with pytest.raises(Overloaded, match="shutting down"):
        pool.reserve()
    pool.open()
    assert pool.reserve().has_slot


def test_who_waits_too_long_is_turned_away_and_loses_no_slot() -> None:
    pool = pool_of(1, 1, wait_seconds=0.01)
    first, second = pool.reserve(), pool.reserve()
    with pytest.raises(Overloaded, match="busy"), second:
        second.wait()
    assert pool.reserve().has_slot is False  # the place is free again
    leave(first)
    assert pool.busy == 1


def test_slot_that_comes_after_the_time_was_up_is_passed_on() -> None:
    pool = pool_of(1, 2, wait_seconds=0)
    first, late, next_one = (pool.reserve() for _ in range(3))
    with late:
        with pytest.raises(Overloaded):
            late.wait()
        leave(first)
    assert next_one.has_slot


def test_the_wait_of_a_caller_may_be_without_end(threads: ThreadPoolExecutor) -> None:
    pool = pool_of(1, 2, wait_seconds=0)
    first, usual, patient = (pool.reserve() for _ in range(3))
    waiter = threads.submit(lambda: patient.wait(is_limited=False))
    with pytest.raises(Overloaded), usual:
        usual.wait()
    leave(first)
    assert result_of(waiter)


A, B, C = 1, 2, 3  # owners


def states_of(*reservations: Reservation) -> str:
    """Return one letter for each: it runs, or it waits."""
    return "".join("r" if one.has_slot else "w" for one in reservations)


class TestLimitOfAnOwner:
    def test_holds_although_slots_are_free_and_others_run_beside(self) -> None:
        pool = pool_of(4, 8)
        line = [pool.reserve(A, 1), pool.reserve(A, 1), pool.reserve(B), pool.reserve(C, 1)]
        assert states_of(*line) == "rwrr"
        leave(line[2])
        assert states_of(*line[:2]) == "rw"  # B's slot is none for A
        leave(line[0])
        assert states_of(line[1]) == "r"

    def test_is_for_all_of_its_callers_whatever_they_bring(self) -> None:
        pool = pool_of(8, 8)
        unlimited = [pool.reserve(A) for _ in range(2)]
        assert states_of(pool.reserve(A, 3), pool.reserve(A, 3)) == "rw"
        assert states_of(*unlimited) == "rr"

    def test_of_those_who_may_run_the_first_gets_the_slot(self) -> None:
        pool = pool_of(2, 8)
        first_a, first_b = pool.reserve(A, 1), pool.reserve(B)
        line = [pool.reserve(A, 1), pool.reserve(C), pool.reserve(A, 1), pool.reserve(B)]
        leave(first_b)
        assert states_of(*line) == "wrww"
        leave(first_a)
        assert states_of(*line) == "rrww"
        leave(line[1])
        assert states_of(line[0], *line[2:]) == "rwr"

    def test_one_end_may_start_more_than_one(self) -> None:
        pool = pool_of(3, 8)
        running = [pool.reserve(A) for _ in range(2)]
        lower, higher = pool.reserve(A, 1), pool.reserve(A, 3)
        assert states_of(lower, higher) == "ww"
        leave(running[0])
        assert states_of(lower, higher) == "ww"
        leave(running[1])
        assert states_of(lower, higher) == "rr"

    def test_a_lower_limit_in_line_is_not_overtaken_by_a_higher_one(self) -> None:
        pool = pool_of(4, 8)
        running = pool.reserve(A, 1)
        line = [pool.reserve(A, 1), pool.reserve(A, 4), pool.reserve(A), pool.reserve(B)]
        assert states_of(*line) == "wwwr"
        leave(running)
        assert states_of(*line) == "rrrr"

    @pytest.mark.parametrize("end", [Reservation.abandon, leave], ids=["abandon", "leave"])
    def test_who_held_others_up_and_goes_lets_them_run(
        self, end: Callable[[Reservation], None]
    ) -> None:
        pool = pool_of(4, 8)
        _running, lower, higher = pool.reserve(A, 1), pool.reserve(A, 1), pool.reserve(A, 2)
        assert states_of(lower, higher) == "ww"
        end(lower)
        assert states_of(lower, higher) == "wr"

    def test_waiter_is_woken_when_its_owner_may_run_again(
        self, threads: ThreadPoolExecutor
    ) -> None:
        pool = pool_of(4, 8)
        with pool.reserve(A, 1):
            second = pool.reserve(A, 1)
            waiter = threads.submit(second.wait)
        assert result_of(waiter)

    def test_does_not_keep_the_pool_from_idling(self) -> None:
        pool = pool_of(2, 2)
        line = [pool.reserve(A, 1), pool.reserve(A, 1)]
        assert pool.busy == 1
        leave(line[0])
        assert not pool.wait_until_idle(0)
        leave(line[1])
        assert pool.wait_until_idle(0)

    def test_closed_pool_sends_its_waiters_away_too(self) -> None:
        pool = pool_of(2, 2)
        _running, waiting = pool.reserve(A, 1), pool.reserve(A, 1)
        pool.close()
        assert waiting.wait() is False


class TestPlacesOfAnOwner:
    @pytest.mark.parametrize(
        ("places", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4), (32, 16)]
    )
    def test_who_has_a_limit_may_wait_in_half_of_them(self, places: int, share: int) -> None:
        pool = pool_of(4, places)
        kept = [pool.reserve(A, 1) for _ in range(1 + share)]
        with pytest.raises(AgentBusy, match="concurrency is 1,") as caught:
            pool.reserve(A, 1)
        assert caught.value.retry_after_seconds >= 1
        assert states_of(*kept, pool.reserve(B)) == "r" + "w" * share + "r"

    def test_who_has_none_may_wait_in_all_of_them(self) -> None:
        pool = pool_of(1, 4)
        assert states_of(*(pool.reserve(A) for _ in range(5))) == "rwwww"
        with pytest.raises(Overloaded, match="All execution slots are busy") as caught:
            pool.reserve(A)
        assert caught.type is Overloaded

    def test_a_full_server_is_no_fault_of_an_agent(self) -> None:
        pool = pool_of(1, 2)
        line = [pool.reserve(A), pool.reserve(B), pool.reserve(C)]
        assert states_of(*line) == "rww"
        with pytest.raises(Overloaded, match="All execution slots are busy") as caught:
            pool.reserve(A, 1)
        assert caught.type is Overloaded

    def test_no_places_at_all_are_the_agents_fault_while_slots_are_free(self) -> None:
        pool = pool_of(4, 0)
        running = pool.reserve(A, 1)
        with pytest.raises(AgentBusy, match="concurrency is 1,"):
            pool.reserve(A, 1)
        assert states_of(running, pool.reserve(B, 1)) == "rr"

    def test_who_is_behind_a_lower_limit_is_told_that_one(self) -> None:
        pool = pool_of(4, 1)
        _running, _waiting = pool.reserve(A, 1), pool.reserve(A, 1)
        with pytest.raises(AgentBusy, match="concurrency is 1,"):
            pool.reserve(A)

    def test_who_is_turned_away_leaves_nothing_behind(self) -> None:
        pool = pool_of(4, 2)
        line = [pool.reserve(A, 1), pool.reserve(A, 1)]
        for _ in range(3):
            with pytest.raises(AgentBusy):
                pool.reserve(A, 1)
        for one in line:
            leave(one)
        assert pool.wait_until_idle(0)
        assert states_of(*(pool.reserve(A, 2) for _ in range(3))) == "rrw"

    def test_who_waits_too_long_for_its_own_agent_is_told_so(self) -> None:
        pool = pool_of(2, 2, wait_seconds=0)
        _running, waiting = pool.reserve(A, 1), pool.reserve(A, 1)
        with pytest.raises(AgentBusy, match="concurrency is 1,"), waiting:
            waiting.wait()


class TestRetryAfter:
    """Callers are told to come back when those in line are through, as long as they took lately."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr("anymind_lite.services.slots.time.monotonic", lambda: now[0])
        return now

    def run(self, pool: SlotPool, clock: list[float], seconds: float) -> None:
        for _ in range(100):
            with pool.reserve():
                clock[0] += seconds

    @pytest.mark.parametrize(
        ("seconds", "told"), [(0, 1), (0.001, 1), (0.5, 5), (2, 17), (300, 60)]
    )
    def test_of_a_full_server(self, clock: list[float], seconds: float, told: int) -> None:
        pool = pool_of(4, 32)
        self.run(pool, clock, seconds)
        for _ in range(36):
            pool.reserve()
        with pytest.raises(Overloaded) as caught:
            pool.reserve()
        assert caught.value.retry_after_seconds == told  # 33 callers, 4 at once

    @pytest.mark.parametrize(("most", "told"), [(1, 34), (2, 17), (4, 9), (256, 9)])
    def test_of_an_agent(self, clock: list[float], most: int, told: int) -> None:
        pool = pool_of(4, 32)
        self.run(pool, clock, 2)
        for _ in range(min(most, 4) + 16):
            pool.reserve(A, most)
        with pytest.raises(AgentBusy) as caught:
            pool.reserve(A, most)
        assert caught.value.retry_after_seconds == told  # 17 callers, so many at once


class TestWaitUntilIdle:
    @pytest.mark.parametrize("callers", [1, 2, 3])
    def test_is_false_while_somebody_runs_or_waits(self, callers: int) -> None:
        pool = pool_of(2, 1)
        reservations = [pool.reserve() for _ in range(callers)]
        assert not pool.wait_until_idle(0)
        for reservation in reservations:
            leave(reservation)
        assert pool.wait_until_idle(0)

    def test_ends_with_the_last_caller(self, threads: ThreadPoolExecutor) -> None:
        pool = pool_of(1, 1)
        with pool.reserve():
            idle = threads.submit(pool.wait_until_idle, DEADLINE_SECONDS)
        assert result_of(idle)


@pytest.mark.parametrize(("slots", "places"), [(1, 0), (1, 3), (3, 2), (4, 64)])
def test_no_slot_is_lost_or_made_in_a_storm(slots: int, places: int) -> None:
    pool = SlotPool(slots, places, wait_seconds=0.002)
    running, most, lock = 0, 0, threading.Lock()
    start = threading.Barrier(16)

    def call(number: int) -> int:
        nonlocal running, most
        start.wait(DEADLINE_SECONDS)
        served = 0
        for round_number in range(60):
            try:
                with pool.reserve() as turn:
                    if (number + round_number) % 5 == 0:
                        turn.abandon()
                    if not turn.wait():
                        continue
                    with lock:
                        running += 1
                        most = max(most, running)
                    time.sleep(0)  # let the others in
                    with lock:
                        running -= 1
                    served += 1
            except Overloaded:
                continue
        return served

    with ThreadPoolExecutor(16) as threads:
        served = sum(threads.map(call, range(16)))
    assert served > 0
    assert most <= slots
    assert pool.wait_until_idle(0)
    assert [pool.reserve().has_slot for _ in range(slots)] == [True] * slots


LIMITS: dict[int, int | None] = {1: None, 2: None, 3: 1, 4: 1, 5: 2, 6: 5}  # by owner


@pytest.mark.parametrize("seed", range(6))
def test_every_caller_is_served_within_its_owners_limit(seed: int) -> None:
    """Threads come in any order; nobody starves, and one owner's callers go in their order."""
    chance = random.Random(seed)
    pool = pool_of(chance.randint(1, 4), 1024)
    calls = [chance.choice(list(LIMITS)) for _ in range(400)]
    lock = threading.Lock()
    running: Counter[int] = Counter()
    arrived: dict[int, list[int]] = defaultdict(list)
    began: dict[int, list[int]] = defaultdict(list)
    faults: list[str] = []

    def check_in(owner: int, number: int) -> None:
        most = LIMITS[owner]
        with lock:
            running[owner] += 1
            began[owner].append(number)
            if most is not None and running[owner] > most:
                faults.append(f"{running[owner]} of owner {owner}")
            if running.total() > pool._slots:
                faults.append(f"{running.total()} in all")

    def call(number: int) -> None:
        owner = calls[number]
        with lock:
            turn = pool.reserve(owner, LIMITS[owner])
            arrived[owner].append(number)
        with turn:
            assert turn.wait()
            check_in(owner, number)
            time.sleep(0)  # let the others in
            with lock:
                running[owner] -= 1

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(call, range(len(calls))))
    assert faults == []
    assert {owner: sorted(numbers) for owner, numbers in began.items()} == {
        owner: sorted(numbers) for owner, numbers in arrived.items()
    }
    for owner, most in LIMITS.items():
        if most == 1:  # with more at once, who checks in first is for the threads to decide
            assert began[owner] == arrived[owner]
    assert pool.wait_until_idle(0)


class TestUsers:
    def test_slot_goes_to_the_user_who_has_the_fewest(self) -> None:
        pool = SlotPool(2, 8, 1)
        running = [pool.reserve(1, None, user=1) for _ in range(2)]
        greedy = [pool.reserve(1, None, user=1) for _ in range(3)]
        late = pool.reserve(2, None, user=2)
        with running[0]:
            pass
        assert late.has_slot
        assert not any(one.has_slot for one in greedy)
        with running[1]:
            pass
        assert [one.has_slot for one in greedy] == [True, False, False]

    def test_users_with_as_many_get_it_in_the_order_of_arrival(self) -> None:
        pool = SlotPool(1, 8, 1)
        running = pool.reserve(user=3)
        first, second = pool.reserve(user=2), pool.reserve(user=1)
        with running:
            pass
        assert (first.has_slot, second.has_slot) == (True, False)

    def test_last_quarter_of_the_line_is_for_who_does_not_wait_yet(self) -> None:
        pool = SlotPool(1, 8, 1)
        for _ in range(1 + 6):
            pool.reserve(user=1)
        with pytest.raises(Overloaded):
            pool.reserve(user=1)
        pool.reserve(user=2)
        with pytest.raises(Overloaded):
            pool.reserve(user=2)
        pool.reserve(user=3)
        with pytest.raises(Overloaded):
            pool.reserve(user=4)

    @pytest.mark.parametrize("places", [0, 1, 2, 3])
    def test_short_line_is_for_whoever_comes(self, places: int) -> None:
        pool = SlotPool(1, places, 1)
        for _ in range(1 + places):
            pool.reserve(user=1)
        with pytest.raises(Overloaded):
            pool.reserve(user=2)
