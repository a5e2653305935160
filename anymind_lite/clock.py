"""The one source of instants.

Durations use `time.monotonic()`; instants that are stored or shown come from here, in UTC.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present instant, aware, in UTC, in whole microseconds."""
    return datetime.now(UTC)


def iso_format(instant: datetime) -> str:
    """Write an instant as ISO 8601 with `Z`, to the millisecond: `2026-01-31T09:30:00.250Z`.

    Without a zone a browser would read the text as its own local time (ECMA-262, Date.parse).
    """
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since_boot() -> float:
    """Return a duration that nobody can set and that grows while the machine sleeps, where it can.

    `time.monotonic()` stands still in sleep on Linux (clock_gettime(2), CLOCK_BOOTTIME).
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


# An even clock drifts by seconds a day; who corrects one that was off by less harms no row.
_STEP_SECONDS = 600.0


class SteadyClock:
    """Tells for how long the clock of the day has run as evenly as the one since boot."""

    def __init__(
        self,
        steady_seconds: float,
        now: Callable[[], datetime] = utc_now,
        elapsed: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._steady_seconds = steady_seconds
        self._now = now
        self._elapsed = elapsed
        self._offset: float | None = None
        self._since = 0.0

    def read(self) -> tuple[datetime, bool]:
        """Return the present instant, and whether what it says of ages may be believed.

        It may when the clock has run evenly for `steady_seconds`, as far as this was asked.
        """
        now, elapsed = self._now(), self._elapsed()
        offset = now.timestamp() - elapsed
        if self._offset is None or abs(offset - self._offset) > _STEP_SECONDS:
            self._offset, self._since = offset, elapsed
        return now, elapsed - self._since >= self._steady_seconds
