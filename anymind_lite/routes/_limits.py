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
from flask_limiter import Limiter, RequestLimit
from limits import RateLimitItem, parse
from limits.storage import Storage
from limits.strategies import RateLimiter

from anymind_lite.errors import NotAuthenticated

_IPV6_CUSTOMER_BITS = 64  # what one customer gets at least (RFC 6177)
_STORAGE = "steady://"  # `SteadyCounts`
_SWEEP_SECONDS = 60.0


def limit_sign_in(app: Flask, *, login: str | None, register: str | None) -> None:
    """Bound log-ins that fail, and registrations, by client address; None means no limit.

    The view runs only when the limit is not reached: an attacker past it costs no bcrypt.
    """
    limiter = Limiter(client_network, app=app, storage_uri=_STORAGE, on_breach=_refuse_limit)
    views: dict[str, Any] = app.view_functions
    if login is not None:
        attempts = FailedAttempts(parse(login), limiter.limiter)
        views["auth.login"] = _limit_failures(views["auth.login"], attempts)
    if register is not None:
        views["auth.register"] = limiter.limit(register)(views["auth.register"])


def client_network() -> str:
    """Return the client's address; of IPv6 the network, since every client has 2^64 addresses."""
    # Never empty: Flask-Limiter passes over a limit without a key.
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
    """A client has no attempt left until `reset_at` (seconds since 1970)."""

    def __init__(self, reset_at: float) -> None:
        super().__init__()
        self.reset_at = reset_at


class SteadyCounts(Storage):
    """Counts in this process, in windows that last as long as they say.

    Those of `limits` end at an instant of the day: after a clock was set back by two days, whoever
    had no attempt left would have none for two days. (test_clock_steps_lock_nobody_out)
    """

    STORAGE_SCHEME = ["steady"]  # noqa: RUF012 (`limits` declares it so)
    base_exceptions = ()  # nothing that it does can fail

    def __init__(self, uri: str | None = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self._windows: dict[str, tuple[float, int]] = {}  # end, by time.monotonic(); count
        self._lock = threading.Lock()
        self._swept_at = time.monotonic()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count so many more; the first one begins a window of `expiry` seconds."""
        now = time.monotonic()
        with self._lock:
            self._sweep(now)
            ends_at, count = self._windows.get(key, (now, 0))
            if ends_at <= now:
                ends_at, count = now + expiry, 0
            self._windows[key] = (ends_at, count + amount)
            return count + amount

    def get(self, key: str) -> int:
        """Return the count of the present window."""
        ends_at, count = self._windows.get(key, (0.0, 0))
        return count if ends_at > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the window ends, in seconds since 1970 as the clock stands now."""
        ends_at, _ = self._windows.get(key, (0.0, 0))
        return time.time() + max(0.0, ends_at - time.monotonic())

    def check(self) -> bool:
        """Tell that it works."""
        return True

    def reset(self) -> int:
        """Forget everybody; return how many there were."""
        with self._lock:
            count = len(self._windows)
            self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget one."""
        with self._lock:
            self._windows.pop(key, None)

    def _sweep(self, now: float) -> None:
        """Forget windows that have ended, once a minute: every address that tries makes one."""
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self._windows = {key: one for key, one in self._windows.items() if one[0] > now}


class FailedAttempts:
    """Counts the attempts of each client that failed and, until they end, those that may yet.

    Flask-Limiter's `deduct_when` looks at the count before the view and adds to it after: any
    number of attempts that begin together would all run.
    (test_parallel_logins_are_no_way_round_the_limit)
    """

    def __init__(self, limit: RateLimitItem, counts: RateLimiter) -> None:
        self._limit = limit
        self._counts = counts
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, client: str) -> Iterator[None]:
        """Count the block if it raises NotAuthenticated. Raises LimitReached instead of running."""
        with self._lock:
            reset_at, remaining = self._counts.get_window_stats(self._limit, client)
            if self._open[client] >= remaining:
                raise LimitReached(reset_at)
            self._open[client] += 1
        has_failed = False
        try:
            yield
        except NotAuthenticated:
            has_failed = True
            raise
        finally:
            self._end(client, has_failed=has_failed)

    def _end(self, client: str, *, has_failed: bool) -> None:
        with self._lock:
            if has_failed:
                self._counts.hit(self._limit, client)
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


def _limit_failures(view: Callable[..., Any], attempts: FailedAttempts) -> Callable[..., Any]:
    @wraps(view)
    def limited(*args: Any, **kwargs: Any) -> Any:
        try:
            with attempts.attempt(client_network()):
                return view(*args, **kwargs)
        except LimitReached as reached:
            return _refuse(reached.reset_at)

    return limited


def _refuse_limit(limit: RequestLimit) -> Response:
    return _refuse(limit.window.reset_time)


def _refuse(reset_at: float) -> Response:
    seconds = max(1, ceil(reset_at - time.time()))
    response = jsonify({"detail": f"Too many attempts; try again in {seconds} seconds"})
    response.status_code = 429
    response.headers["Retry-After"] = str(seconds)
    return response
