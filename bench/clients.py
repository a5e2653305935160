"""Clients that send one request again and again on kept-alive connections, and time the answers.

They speak just enough HTTP/1.1 on a plain socket: the request is made once, and of an answer only
its status and its end are found. That costs some ten microseconds a call; http.client costs over a
hundred, which would be a good part of what is measured.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.figures import Turn

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Request:
    """One request, ready to be sent, and what an answer must hold to count as good."""

    host: str
    port: int
    text: bytes
    expected: bytes

    @classmethod
    def post(
        cls, url: str, body: bytes, *, expected: bytes, headers: Mapping[str, str] | None = None
    ) -> "Request":
        """Return a POST of JSON."""
        where = urlsplit(url)
        lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.hostname}:{where.port}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join(lines).encode()
        return cls(where.hostname or "", where.port or 80, head + b"\r\n\r\n" + body, expected)


class Caller:
    """One connection."""

    def __init__(self, request: Request) -> None:
        self._request = request
        where = (request.host, request.port)
        self._socket = socket.create_connection(where, timeout=_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self) -> bytes:
        """Send the request; return head and body of the answer. Raises RuntimeError."""
        self._socket.sendall(self._request.text)
        answer = self._read()
        if not answer.startswith((b"HTTP/1.1 20", b"HTTP/1.0 20")):
            raise RuntimeError(f"answered {answer[:12]!r} ... {answer[-250:]!r}")
        if self._request.expected not in answer:
            raise RuntimeError(f"no {self._request.expected!r} in {answer[-250:]!r}")
        return answer

    def _read(self) -> bytes:
        answer = self._more(b"")
        while b"\r\n\r\n" not in answer:
            answer = self._more(answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        ends = _end_of(head)
        while not ends(body):
            answer = self._more(answer)
            body = answer[len(head) + 4 :]
        return answer

    def _more(self, answer: bytes) -> bytes:
        piece = self._socket.recv(65536)
        if not piece:
            raise RuntimeError(f"the server closed the connection after {answer[-500:]!r}")
        return answer + piece

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _end_of(head: bytes) -> Callable[[bytes], bool]:
    """Return what tells whether a body is whole."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return lambda body: len(body) >= int(value)
        if name == b"transfer-encoding":
            return lambda body: body.endswith(b"0\r\n\r\n")
    raise RuntimeError(f"an answer without an end: {head!r}")


class _Tally:
    """What the clients of one turn have found so far."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.warm = 0
        self.started_at = self.ended_at = 0.0
        self.errors: list[Exception] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the clock; before any client calls."""
        self.started_at = time.perf_counter()

    def add(self, latencies: list[float], warm: int) -> None:
        """Add what one client has found, now that it is done."""
        now = time.perf_counter()
        with self._lock:
            self.latencies += latencies
            self.warm += warm
            self.ended_at = max(self.ended_at, now)


def take_turn(request: Request, *, clients: int, seconds: float) -> Turn:
    """Call for so long, at least once each; return what it took. Raises what a call raised.

    Each client has a thread and a connection of its own, which are new in every turn, as servers
    close connections that idle; they are open before the clock starts.
    """
    tally = _Tally()
    start = threading.Barrier(clients + 1, action=tally.start)
    arguments = (request, start, seconds, tally)
    threads = [threading.Thread(target=_call, args=arguments) for _ in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        start.wait()
    for thread in threads:
        thread.join()
    if tally.errors:
        raise tally.errors[0]
    return Turn(tuple(tally.latencies), tally.ended_at - tally.started_at, tally.warm)


def _call(request: Request, start: threading.Barrier, seconds: float, tally: _Tally) -> None:
    try:
        caller = Caller(request)
        try:
            start.wait()
            tally.add(*_call_until(caller, time.perf_counter() + seconds))
        finally:
            caller.close()
    except threading.BrokenBarrierError:
        pass  # Another client has failed, and says why.
    except Exception as exc:  # noqa: BLE001 - told by the thread that waits for this one
        tally.errors.append(exc)
        start.abort()


def _call_until(caller: Caller, deadline: float) -> tuple[list[float], int]:
    """Call until then, at least once; return the seconds of each and how many were warm."""
    latencies: list[float] = []
    warm = 0
    now = time.perf_counter()
    while not latencies or now < deadline:
        began_at = time.perf_counter()
        answer = caller.call()
        now = time.perf_counter()
        latencies.append(now - began_at)
        warm += b'"warm":true' in answer
    return latencies, warm
