"""Starts the server under a clock of the day that another process can set.

`clock_driver.py ORDERS serve ...`, where ORDERS is JSON: `shared` is a file with two doubles, and
`mutants` are names in `MUTANTS`. The first double is how many seconds this process's clock is
ahead; the second counts how often it has looked for what is too old to be kept, which it does all
the time. Everything in this process reads that clock: the product, its libraries, logging.
`time.monotonic` stays as it is, as it does when the machine's clock steps. The zygote, the reader
and agents keep the machine's clock.
"""

import datetime
import json
import mmap
import sqlite3  # noqa: F401 (it knows how to write the true class of instants, and no other)
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))


_SWEEP_SECONDS = 0.05


def open_shared(path: str) -> mmap.mmap:
    """Return the two numbers that the test shares."""
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), 16)


def set_clock(shared: mmap.mmap) -> None:
    """Replace what Python has for reading the clock; before anything imports it by name."""
    real_time, real_datetime = time.time, datetime.datetime

    def now() -> float:
        return real_time() + float(struct.unpack("d", shared[:8])[0])

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real_datetime)

    class SteppedDatetime(real_datetime, metaclass=Kind):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_datetime.fromtimestamp(now(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return real_datetime.fromtimestamp(now(), datetime.UTC).replace(tzinfo=None)

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    datetime.datetime = SteppedDatetime  # type: ignore[misc]


def _replace(owner: object, name: str, value: object) -> None:
    """Set a name that must be there."""
    assert hasattr(owner, name), name
    setattr(owner, name, value)


def sweep_often(shared: mmap.mmap) -> None:
    """Look all the time for what is too old, and count it."""
    from anymind_lite import backend
    from anymind_lite.services.retention import Retention

    sweep = Retention.sweep

    def sweep_and_count(retention: Retention) -> int:
        removed = sweep(retention)
        (count,) = struct.unpack("d", shared[8:])
        shared[8:] = struct.pack("d", count + 1)
        return removed

    _replace(backend, "_RETENTION_SECONDS", _SWEEP_SECONDS)
    _replace(backend, "_FORGET_SECONDS", _SWEEP_SECONDS)
    _replace(Retention, "sweep", sweep_and_count)


def believed_clock() -> None:
    """What is old is judged by the clock as it stands."""
    from anymind_lite.clock import SteadyClock

    read = SteadyClock.read
    _replace(SteadyClock, "read", lambda clock: (read(clock)[0], True))


def wall_clock_deadlines() -> None:
    """Deadlines of jobs are instants of the day."""
    from anymind_lite.sandbox.in_server import conversation

    _replace(conversation, "time", SimpleNamespace(monotonic=time.time))


def wall_clock_limits() -> None:
    """Attempts are counted in windows that end at an instant of the day."""
    from anymind_lite.routes import _limits

    _replace(_limits, "time", SimpleNamespace(monotonic=time.time))


def tokens_with_birthdays() -> None:
    """A token from the future is refused, as PyJWT does unless told otherwise."""
    import jwt

    encode, decode = jwt.encode, jwt.decode

    def encode_with_iat(claims: dict[str, Any], *args: Any) -> str:
        return encode({**claims, "iat": datetime.datetime.now(datetime.UTC)}, *args)

    def decode_strictly(token: str, *args: Any, **kwargs: Any) -> Any:
        kwargs["options"] = {**kwargs["options"], "verify_iat": True}
        return decode(token, *args, **kwargs)

    _replace(jwt, "encode", encode_with_iat)
    _replace(jwt, "decode", decode_strictly)


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        believed_clock,
        wall_clock_deadlines,
        wall_clock_limits,
        tokens_with_birthdays,
    )
}


def main() -> None:
    """Follow the orders, then be the server's command line."""
    orders = json.loads(sys.argv.pop(1))
    shared = open_shared(orders["shared"])
    set_clock(shared)
    sweep_often(shared)
    for name in orders["mutants"]:
        MUTANTS[name]()
    from anymind_lite.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
