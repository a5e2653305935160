"""The one source of instants.

Durations use `time.monotonic()`; instants that are stored or shown come from here, in UTC.
"""

import time
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
