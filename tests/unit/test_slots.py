"""Execution slots: who runs, who waits, who is turned away."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from anymind_lite.errors import Overloaded
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
