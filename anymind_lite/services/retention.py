"""Retention: old executions are removed, so that neither the disk nor the lists grow for ever.

What stays of an agent: its newest `ALWAYS_KEPT` executions, whatever their age; of the others the
newest `count`, as long as they are younger than `days`. What is unfinished stays in any case.
Versions and artifacts are never removed here.

The executions of an agent that is being deleted all go, in the same small batches.

What an Idempotency-Key still stands for stays too, for a day at most: whoever asks again would else
have it done twice.

Newer means a higher id, which no clock decides. Age needs a clock, and clocks are wrong at times: a
small machine without a battery starts in 1970, a virtual one wakes up in 2080. So two things must
hold before a row goes because of its age. Every execution of its agent with a lower id is as old:
who was recorded while the clock was too late or too early protects what came after. And the clock
has run evenly for `_STEADY_SECONDS`, as a second clock shows that nobody can set: after a step, as
after a start, what is recorded may be dated wrongly, and what is removed does not come back. A
clock that stays wrong for longer is believed; the newest ones stay even then.
"""

import logging
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from anymind_lite.clock import SteadyClock, iso_format
from anymind_lite.database import database, write_transaction

logger = logging.getLogger(__name__)

ALWAYS_KEPT = 100

_STEADY_SECONDS = 12 * 3600.0

# The lock is held for as long as this, or for one row, and then left to others for four times as
# long. A row of many megabytes takes longer by itself: its pages are freed one by one.
_BATCH_ROWS = 200
_BATCH_SECONDS = 0.003
_REST_FACTOR = 4.0
# Somebody waits for the end of a deletion, so others get half of the time rather than most of it.
_DELETION_REST_FACTOR = 1.0
_LEAST_REST_SECONDS = 0.005

# Written out, as Peewee takes 200 us to render what SQLite answers in 20, for every agent anew.
# tests/unit/test_query_plans.py holds that each is a search in an index.
NEXT_AGENT = "SELECT id FROM agent WHERE id > ? ORDER BY id LIMIT 1"
NTH_NEWEST = "SELECT id FROM execution WHERE agent_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
# `+id`: SQLite would rather walk the rows in the order of ids to find the least one.
FIRST_YOUNG = "SELECT MIN(+id) FROM execution WHERE agent_id = ? AND updated_at >= ?"
FINISHED_BELOW = (
    "SELECT id FROM execution WHERE agent_id = ? AND id > ? AND id < ? "
    "AND status NOT IN ('pending', 'running') AND NOT EXISTS "
    "(SELECT 1 FROM idempotency_key WHERE execution_id = execution.id) ORDER BY id LIMIT ?"
)
ALL_FINISHED_BELOW = (
    "SELECT id FROM execution WHERE agent_id = ? AND id > ? AND id < ? "
    "AND status NOT IN ('pending', 'running') ORDER BY id LIMIT ?"
)
DELETE_FINISHED = "DELETE FROM execution WHERE id = ? AND status NOT IN ('pending', 'running')"


@dataclass(frozen=True)
class Keep:
    """What stays: `days` and `count` as the settings of these names, 0 for no bound."""

    days: int
    count: int
    always: int = ALWAYS_KEPT


class Retention:
    """Removes what is not kept, a little at a time; `sweep` is for one background thread."""

    def __init__(self, keep: Keep, clock: SteadyClock | None = None) -> None:
        self._keep = keep
        self._clock = clock or SteadyClock(_STEADY_SECONDS)
        self._is_ending = threading.Event()

    def begin(self) -> None:
        """Let sweeps run, also after an earlier `interrupt`; the clock is watched from here on."""
        self._is_ending.clear()
        self._clock.read()

    def interrupt(self) -> None:
        """End a sweep that runs, after the rows that it is at."""
        self._is_ending.set()

    def sweep(self) -> int:
        """Go through all agents once; return how many executions were removed."""
        now, is_steady = self._clock.read()
        days = self._keep.days if is_steady else 0
        oldest = iso_format(now - timedelta(days=days)) if days else None
        removed = agent_id = 0
        with database.light_commits():
            while not self._is_ending.is_set() and (agent_id := _first(NEXT_AGENT, agent_id)):
                removed += self._remove_below(agent_id, self._bound(agent_id, oldest))
        if removed:
            logger.info("event=executions_removed count=%d", removed)
        return removed

    def _bound(self, agent_id: int, oldest: str | None) -> int:
        """Return the id below which the agent's finished executions are to go; 0 for none."""
        always, count = self._keep.always, self._keep.count
        kept = _first(NTH_NEWEST, agent_id, (min(always, count) if count else always) - 1)
        if not kept:
            return 0
        by_count = _first(NTH_NEWEST, agent_id, count - 1) if count else 0
        by_age = (_first(FIRST_YOUNG, agent_id, oldest) or kept) if oldest else 0
        return min(kept, max(by_count, by_age))

    def _remove_below(self, agent_id: int, bound: int) -> int:
        return _remove_below(
            FINISHED_BELOW, agent_id, bound, rest_factor=_REST_FACTOR, is_ending=self._is_ending
        )


def remove_history(agent_id: int) -> int:
    """Remove the finished executions of an agent that is being deleted; return how many.

    For one that takes no new executions: what ends after this began stays. Others write meanwhile.
    """
    bound = _first(NTH_NEWEST, agent_id, 0) + 1
    never = threading.Event()
    with database.light_commits():
        return _remove_below(
            ALL_FINISHED_BELOW,
            agent_id,
            bound,
            rest_factor=_DELETION_REST_FACTOR,
            is_ending=never,
        )


def _remove_below(
    select: str, agent_id: int, bound: int, *, rest_factor: float, is_ending: threading.Event
) -> int:
    """Remove what a statement finds of an agent's executions, batch by batch; return how many."""
    removed = after = 0
    while not is_ending.is_set():
        rows = database.execute_sql(select, (agent_id, after, bound, _BATCH_ROWS))
        ids = [row_id for (row_id,) in rows.fetchall()]
        if not ids:
            break
        started = time.monotonic()
        done = _delete_some(ids)
        removed, after = removed + len(done), done[-1]
        database.empty_log()  # here, between the commits, nobody waits for it
        rest = rest_factor * (time.monotonic() - started)
        is_ending.wait(max(rest, _LEAST_REST_SECONDS))
    return removed


def _delete_some(ids: list[int]) -> list[int]:
    """Delete the first of these rows, at least one, and as many as there is time for."""
    done = []
    with write_transaction():
        deadline = time.monotonic() + _BATCH_SECONDS
        for row_id in ids:
            database.execute_sql(DELETE_FINISHED, (row_id,))
            done.append(row_id)
            if time.monotonic() > deadline:
                break
    return done


def _first(sql: str, *values: object) -> int:
    """Return the one number that a statement answers; 0 for none."""
    row = database.execute_sql(sql, values).fetchone()
    return int(row[0] or 0) if row else 0
