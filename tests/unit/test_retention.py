"""Retention: what goes, what always stays, what the clock may not decide, and who waits for it."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anymind_lite.clock import SteadyClock, utc_now
from anymind_lite.database import ServerDatabase, write_transaction
from anymind_lite.models import Agent, AgentVersion, Execution, IdempotencyKey, User
from anymind_lite.services import retention
from anymind_lite.services.retention import _STEADY_SECONDS, Keep, Retention
from tests.unit.conftest import Rows
from tests.waiting import DEADLINE_SECONDS, wait_for

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FOREVER = Keep(days=0, count=0)


class FakeClock:
    """What the two clocks of a machine show."""

    def __init__(self) -> None:
        self.now = NOW
        self.elapsed = 1000.0
        self.steady = SteadyClock(_STEADY_SECONDS, lambda: self.now, lambda: self.elapsed)
        self.steady.read()

    def run(self, hours: float) -> "FakeClock":
        """Let time go by."""
        self.now += timedelta(hours=hours)
        self.elapsed += hours * 3600
        return self

    def step(self, by: timedelta) -> "FakeClock":
        """Set the clock of the day."""
        self.now += by
        return self


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def version(rows: Rows) -> AgentVersion:
    return rows.version(rows.agent(), status="ready")


def add(version: AgentVersion, *ages_in_days: float, **columns: Any) -> list[int]:
    """Put executions that ended so many days before NOW, in this order; return their ids."""
    ids = []
    with write_transaction():
        for age in ages_in_days:
            at = NOW - age * DAY
            values = {"status": "completed", "input_data": "{}", "created_at": at, **columns}
            row = Execution.create(
                agent=version.agent_id,
                agent_version=version.id,
                user=version.agent.user_id,
                updated_at=at,
                **values,
            )
            ids.append(row.id)
    return ids


def left(version: AgentVersion) -> list[int]:
    query = Execution.select(Execution.id).where(Execution.agent == version.agent_id)
    return [row.id for row in query.order_by(Execution.id)]


def sweep(keep: Keep, clock: FakeClock | None = None) -> int:
    """Sweep with a clock that has shown NOW for long enough, if none is given."""
    if clock is None:
        clock = FakeClock().step(-DAY)
        clock.steady.read()
        clock.run(24)
    return Retention(keep, clock.steady).sweep()


class TestWhatGoes:
    def test_by_age(self, version: AgentVersion) -> None:
        ids = add(version, 40, 31, 30.1, 29.9, 1, 0)
        assert sweep(Keep(days=30, count=0, always=1)) == 3
        assert left(version) == ids[3:]

    def test_by_count(self, version: AgentVersion) -> None:
        ids = add(version, *[0] * 7)
        assert sweep(Keep(days=0, count=4, always=1)) == 3
        assert left(version) == ids[3:]

    @pytest.mark.parametrize(("days", "count", "gone"), [(30, 5, 3), (5, 4, 4), (30, 2, 6)])
    def test_whichever_takes_more(
        self, version: AgentVersion, days: int, count: int, gone: int
    ) -> None:
        ids = add(version, 40, 35, 20, 8, 4, 3, 2, 1)
        assert sweep(Keep(days=days, count=count, always=1)) == gone
        assert left(version) == ids[gone:]

    def test_zero_keeps_for_ever(self, version: AgentVersion) -> None:
        ids = add(version, *range(5000, 4000, -7))
        assert sweep(FOREVER) == 0
        assert left(version) == ids

    def test_each_agent_by_itself(self, rows: Rows) -> None:
        versions = [rows.version(rows.agent(), status="ready") for _ in range(3)]
        ids = [add(one, *[0] * size) for one, size in zip(versions, (2, 5, 3), strict=True)]
        assert sweep(Keep(days=0, count=3, always=1)) == 2
        assert [left(one) for one in versions] == [ids[0], ids[1][2:], ids[2]]

    def test_more_than_one_batch(self, version: AgentVersion) -> None:
        ids = add(version, *[50] * 450, *[0] * 50)
        assert sweep(Keep(days=30, count=0, always=1)) == 450
        assert left(version) == ids[450:]

    def test_versions_and_other_rows_stay(self, version: AgentVersion) -> None:
        add(version, *[50] * 3, 0)
        tables = (User, Agent, AgentVersion)
        before = [list(table.select().dicts()) for table in tables]
        assert sweep(Keep(days=30, count=1, always=1)) == 3
        assert [list(table.select().dicts()) for table in tables] == before


class TestWhatStays:
    def test_the_newest_of_an_agent_whatever_their_age(self, version: AgentVersion) -> None:
        ids = add(version, *range(5000, 4880, -1))
        assert sweep(Keep(days=1, count=0)) == 20
        assert left(version) == ids[-retention.ALWAYS_KEPT :]

    def test_the_newest_also_where_some_of_them_are_young(self, version: AgentVersion) -> None:
        ids = add(version, 50, 50, 50, 50, 0)
        assert sweep(Keep(days=30, count=0, always=3)) == 2
        assert left(version) == ids[2:]

    def test_a_smaller_count_is_obeyed(self, version: AgentVersion) -> None:
        ids = add(version, *[50] * 20)
        assert sweep(Keep(days=30, count=5)) == 15
        assert left(version) == ids[-5:]

    @pytest.mark.parametrize("status", ["pending", "running"])
    def test_what_is_unfinished(self, version: AgentVersion, status: str) -> None:
        (old,) = add(version, 50, status=status)
        add(version, 49, 48)
        ids = add(version, 0)
        assert sweep(Keep(days=30, count=1, always=1)) == 2
        assert left(version) == [old, *ids]

    def test_what_an_idempotency_key_stands_for(self, version: AgentVersion) -> None:
        ids = add(version, *[50] * 4)
        with write_transaction():
            IdempotencyKey.create(
                user=version.agent.user_id,
                key="key",
                fingerprint="-",
                execution=ids[1],
                created_at=NOW,
            )
        assert sweep(Keep(days=30, count=1)) == 2
        assert left(version) == [ids[1], ids[3]]
        with write_transaction():
            IdempotencyKey.delete().execute()
        assert sweep(Keep(days=30, count=1)) == 1

    def test_what_begins_to_be_removed_and_is_not_finished(self, version: AgentVersion) -> None:
        (row_id,) = add(version, 50, status="running")
        assert retention._delete_some([row_id]) == [row_id]
        assert left(version) == [row_id]


class TestClockThatSteps:
    """Nothing of this deletes what a right clock would have kept."""

    KEEP = Keep(days=30, count=0, always=2)

    def test_a_server_that_has_just_started_believes_no_age(
        self, version: AgentVersion, clock: FakeClock
    ) -> None:
        ids = add(version, *[50] * 5)
        assert sweep(self.KEEP, clock.run(11.9)) == 0
        assert left(version) == ids
        assert sweep(self.KEEP, clock.run(0.2)) == 3

    def test_54_years_ahead_removes_nothing(self, version: AgentVersion, clock: FakeClock) -> None:
        ids = add(version, 40, 39, *[1] * 5)
        one = Retention(self.KEEP, clock.steady)
        clock.run(24).step(timedelta(days=365.25 * 54))
        for _ in range(11):
            assert one.sweep() == 0
            clock.run(1)
        assert left(version) == ids
        clock.step(-timedelta(days=365.25 * 54))
        assert one.sweep() == 0  # set right again: that is a step too
        clock.run(12.1)
        assert one.sweep() == 2
        assert left(version) == ids[2:]

    def test_54_years_ahead_for_good_leaves_the_newest(
        self, version: AgentVersion, clock: FakeClock
    ) -> None:
        ids = add(version, *[1] * 10)
        one = Retention(self.KEEP, clock.steady)
        clock.run(24).step(timedelta(days=365.25 * 54))
        one.sweep()
        clock.run(24)
        assert one.sweep() == 8
        assert left(version) == ids[-2:]

    def test_count_needs_no_clock(self, version: AgentVersion, clock: FakeClock) -> None:
        ids = add(version, *[1] * 10)
        clock.step(timedelta(days=365.25 * 54))
        assert sweep(Keep(days=30, count=6, always=2), clock) == 4
        assert left(version) == ids[4:]

    @pytest.mark.parametrize("age", [32, 20_000])
    def test_rows_of_a_clock_that_was_late_are_protected_by_those_before(
        self, version: AgentVersion, age: float
    ) -> None:
        """Two days late, or in 1970: what was recorded then looks older than it is."""
        ids = add(version, 29, 28, *[age] * 5, 1, 0)
        assert sweep(self.KEEP) == 0
        assert left(version) == ids

    def test_two_days_back_and_forth(self, version: AgentVersion, clock: FakeClock) -> None:
        ids = add(version, 40, 20, 19, 1, 0)
        one = Retention(self.KEEP, clock.steady)
        for step in (-2 * DAY, 2 * DAY):
            clock.run(24).step(step)
            assert one.sweep() == 0
        clock.run(13)
        assert one.sweep() == 1
        assert left(version) == ids[1:]

    def test_small_corrections_are_no_steps(self, version: AgentVersion, clock: FakeClock) -> None:
        add(version, *[50] * 5)
        one = Retention(self.KEEP, clock.steady)
        removed = 0
        for _ in range(13):
            clock.run(1).step(timedelta(seconds=5))
            removed += one.sweep()
        assert removed == 3


class TestManners:
    @pytest.mark.slow
    def test_others_write_while_it_sweeps(self, rows: Rows, version: AgentVersion) -> None:
        """Megabytes a row, for which the pages are freed one by one: the lock is left often."""
        add(version, *[50] * 60, input_data="x" * 2_000_000)
        add(version, *[0] * 3)
        sweeping = threading.Thread(target=sweep, args=(Keep(days=30, count=0, always=1),))
        before = Execution.select().count()
        sweeping.start()
        wait_for(lambda: Execution.select().count() < before, "the first row to go")
        written = 0
        while sweeping.is_alive() and written < 10:
            rows.user()
            written += 1
        during = Execution.select().count()
        sweeping.join(DEADLINE_SECONDS)
        assert written == 10
        assert during > 3  # they did not have to wait for its end
        assert len(left(version)) == 3

    def test_a_stop_is_heard_within_a_batch(
        self, version: AgentVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(version, *[50] * 300, 0)
        one = Retention(Keep(days=0, count=1, always=1))
        monkeypatch.setattr(retention, "_LEAST_REST_SECONDS", DEADLINE_SECONDS)
        thread = threading.Thread(target=one.sweep)
        thread.start()
        wait_for(lambda: len(left(version)) < 301, "the first batch")
        one.interrupt()
        thread.join(DEADLINE_SECONDS / 2)
        assert not thread.is_alive()
        assert len(left(version)) >= 301 - retention._BATCH_ROWS
        assert one.sweep() == 0
        one.begin()
        monkeypatch.undo()
        one.sweep()
        assert len(left(version)) == 1

    def test_commits_of_deletions_carry_no_work_that_others_would_wait_for(
        self, database: ServerDatabase, version: AgentVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the log is written into the file in one, nor are pages zeroed by it."""

        def settings() -> list[int]:
            names = ("wal_autocheckpoint", "secure_delete")
            with write_transaction():  # on the connection that writes
                return [database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in names]

        seen = []
        delete = retention._delete_some

        def look(ids: list[int]) -> list[int]:
            seen.append(settings())
            return delete(ids)

        monkeypatch.setattr(retention, "_delete_some", look)
        add(version, *[50] * 2, 0)
        assert sweep(Keep(days=0, count=1, always=1)) == 2
        assert seen == [[0, 2]]
        assert settings()[0] == 1000

    def test_a_batch_ends_in_time(
        self, database: ServerDatabase, version: AgentVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = add(version, *[50] * 10)
        moments = iter(range(100))
        monkeypatch.setattr(time, "monotonic", lambda: next(moments) * 0.001)
        assert retention._delete_some(ids) == ids[:4]  # one a millisecond, for three of them


def test_the_second_clock_goes_on(rows: Rows) -> None:
    clock = SteadyClock(_STEADY_SECONDS)
    first, is_steady = clock.read()
    assert not is_steady
    assert abs(first - utc_now()) < DAY
