"""How often one address may try to register or to log in."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from typing import Any

from flask import Flask, Response, jsonify, request

from anymind_lite.errors import NotAuthenticated

_IPV6_CUSTOMER_BITS = 64  # what one customer gets at least (RFC 6177)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_SWEEP_SECONDS = 60.0


def limit_sign_in(app: Flask, *, login: str | None, register: str | None) -> None:
    """Bound log-ins that fail, and registrations, by client address; None means no limit.

    The view runs only when the limit is not reached: an attacker past it costs no bcrypt.
    """
    views: dict[str, Any] = app.view_functions
    if login is not None:
        views["auth.login"] = _limit(views["auth.login"], FailedAttempts(*_read_rate(login)))
    if register is not None:
        views["auth.register"] = _limit(views["auth.register"], Attempts(*_read_rate(register)))


def _read_rate(rate: str) -> tuple[int, int]:
    """Return the count and the seconds of a rate such as "5/minute"."""
    most, _, unit = rate.partition("/")
    return int(most), _SECONDS[unit]


def client_network() -> str:
    """Return the client's address; of IPv6 the network, since every client has 2^64 addresses."""
    text = request.remote_addr or "unknown"
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if not isinstance(address, IPv6Address):
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    # Not the text: it may end in a zone such as %eth0.
    return str(ip_network((int(address), _IPV6_CUSTOMER_BITS), strict=False))


class LimitReached(Exception):
    """A client has no attempt left for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class SteadyCounts:
    """Counts by key, in windows of so many seconds that begin with the first one counted.

    No instant of the day ends a window: after a clock was set back by two days, whoever had no
    attempt left would have none for two days. (test_clock_steps_lock_nobody_out) Not for several
    threads at once.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._windows: dict[str, tuple[float, int]] = {}  # end, by time.monotonic(); count
        self._swept_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, key: str) -> int:
        """Count one more and return how many there are."""
        now = time.monotonic()
        self._sweep(now)
        ends_at, count = self._windows.get(key, (now, 0))
        if ends_at <= now:
            ends_at, count = now + self._seconds, 0
        self._windows[key] = (ends_at, count + 1)
        return count + 1

    def get(self, key: str) -> int:
        """Return the count of the present window."""
        return self._windows[key][1] if self.seconds_left(key) else 0

    def seconds_left(self, key: str) -> float:
        """Return how long the present window lasts; 0 where there is none."""
        ends_at, _ = self._windows.get(key, (0.0, 0))
        return max(0.0, ends_at - time.monotonic())

    def _sweep(self, now: float) -> None:
        """Forget windows that have ended, once a minute: every address that tries makes one."""
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self._windows = {key: one for key, one in self._windows.items() if one[0] > now}


class Attempts:
    """Counts the attempts of each client, those that have not ended included.

    Counting when an attempt begins or when it has ended is not enough: any number of attempts that
    begin together would all run. (test_parallel_logins_are_no_way_round_the_limit)
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._counts = SteadyCounts(seconds)
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, client: str) -> Iterator[None]:
        """Count the block. Raises LimitReached instead of running it."""
        self._begin(client)
        error: BaseException | None = None
        try:
            yield
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._end(client, is_counted=self._is_counted(error))

    def _is_counted(self, _error: BaseException | None) -> bool:
        return True

    def _begin(self, client: str) -> None:
        with self._lock:
            if self._counts.get(client) + self._open[client] >= self._most:
                raise LimitReached(self._counts.seconds_left(client))
            self._open[client] += 1

    def _end(self, client: str, *, is_counted: bool) -> None:
        with self._lock:
            if is_counted:
                self._counts.add(client)
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


class FailedAttempts(Attempts):
    """Counts the attempts of each client that failed and, until they end, those that may yet."""

    def _is_counted(self, error: BaseException | None) -> bool:
        return isinstance(error, NotAuthenticated)


def _limit(view: Callable[..., Any], attempts: Attempts) -> Callable[..., Any]:
    @wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        try:
            with attempts.attempt(client_network()):
                return view(*args, **kwargs)
        except LimitReached as reached:
            return _refuse(reached.seconds)

    return limited


def _refuse(seconds_left: float) -> Response:
    seconds = max(1, ceil(seconds_left))
    response = jsonify({"detail": f"Too many attempts; try again in {seconds} seconds"})
    response.status_code = 429
    response.headers["Retry-After"] = str(seconds)
    return response
