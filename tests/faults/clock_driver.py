"""Starts the server under a clock of the day that another process can set.

`clock_driver.py ORDERS serve ...`, where ORDERS is JSON: `offset` is a file with one double, the
seconds that this process's clock is ahead, and `mutants` are names in `MUTANTS`. Everything in this
process reads that clock: the product, its libraries, logging. `time.monotonic` stays as it is,
which is what a step of the machine's clock does, too. The zygote, the reader and agents keep the
machine's clock.
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


def set_clock(path: str) -> None:
    """Replace what Python has for reading the clock; before anything imports it by name."""
    with Path(path).open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
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


def wall_clock_deadlines() -> None:
    """Deadlines of jobs are instants of the day."""
    from anymind_lite.sandbox.in_server import conversation

    vars(conversation)["time"] = SimpleNamespace(monotonic=time.time)


def wall_clock_limits() -> None:
    """Attempts are counted in windows that end at an instant of the day."""
    from anymind_lite.routes import _limits

    vars(_limits)["_STORAGE"] = "memory://"


def tokens_with_birthdays() -> None:
    """A token from the future is refused, as PyJWT does unless told otherwise."""
    import jwt

    encode, decode = jwt.encode, jwt.decode

    def encode_with_iat(claims: dict[str, Any], *args: Any) -> str:
        return encode({**claims, "iat": datetime.datetime.now(datetime.UTC)}, *args)

    def decode_strictly(token: str, *args: Any, **kwargs: Any) -> Any:
        kwargs["options"] = {**kwargs["options"], "verify_iat": True}
        return decode(token, *args, **kwargs)

    jwt.encode, jwt.decode = encode_with_iat, decode_strictly  # type: ignore[assignment]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (wall_clock_deadlines, wall_clock_limits, tokens_with_birthdays)
}


def main() -> None:
    """Follow the orders, then be the server's command line."""
    orders = json.loads(sys.argv.pop(1))
    set_clock(orders["offset"])
    for name in orders["mutants"]:
        MUTANTS[name]()
    from anymind_lite.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
