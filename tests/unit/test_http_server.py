"""The front door, with little patience: who is slow, idle, too large or too many makes room."""

import contextlib
import errno
import itertools
import json
import logging
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.cli._http_connections import Connection, Patience, Server
from anymind_lite.cli._http_server import HttpServer
from anymind_lite.config import load_settings
from tests.waiting import DEADLINE_SECONDS, wait_for

ORIGIN = "https://app.example.com"
UPLOAD_MAX_BYTES = 1_000_000
LARGEST_BYTES = UPLOAD_MAX_BYTES + 1024 * 1024
LIMITS = {
    "SERVER_PORT": "0",
    "CORS_ORIGINS": ORIGIN,
    "UPLOAD_MAX_SIZE": str(UPLOAD_MAX_BYTES),
    "PAYLOAD_MAX_SIZE": "100000",
}
UPLOAD = "POST /api/v1/uploads/agent/1 HTTP/1.1\r\nHost: x\r\nX-API-Key: any\r\n"
ANSWER_BYTES = 64 * 1024 * 1024
# Where nothing is to be ended but what a test is about.
FOREVER = 1000.0
CALM = Patience(
    header_seconds=FOREVER,
    body_window_seconds=FOREVER,
    idle_seconds=FOREVER,
    unread_seconds=FOREVER,
    linger_seconds=FOREVER,
    look_seconds=0.05,
)


class Application:
    """Tells how long each body was; waits at /wait, answers at length at /long."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.waiting = 0
        self.long_answers = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        length = str(len(environ["wsgi.input"].read()))
        is_long = environ["PATH_INFO"] == "/long"
        announced = str(ANSWER_BYTES if is_long else len(length))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", announced)])
        if environ["PATH_INFO"] == "/wait":
            self.waiting += 1
            self.may_answer.wait(DEADLINE_SECONDS)
        if is_long:
            self.long_answers += 1
            return itertools.repeat(b"x" * 1024 * 1024, ANSWER_BYTES // 1024 // 1024)
        return [length.encode()]


class Door:
    """A server in this process, and its address."""

    def __init__(self, server: HttpServer, app: Application) -> None:
        self.app = app
        self.inner = server._server
        self._address = ("127.0.0.1", server.port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=DEADLINE_SECONDS)

    def ask(self, request: str, body: bytes = b"") -> "Answer":
        with self.connect() as connection:
            connection.sendall(request.encode() + body)
            return read_answer(connection)

    def is_serving(self) -> bool:
        return (
            self.ask("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").status == 200
        )

    @property
    def kept_bytes(self) -> int:
        return sum(one.unread_bytes for one in list(self.inner.active_channels.values()))

    @property
    def open_connections(self) -> int:
        return len(self.inner.active_channels)


class Answer:
    def __init__(self, content: bytes) -> None:
        head, _, self.body = content.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1]) if first else 0  # 0: none came
        self.headers = {name.lower(): text for name, _, text in (x.partition(": ") for x in lines)}

    @property
    def detail(self) -> str:
        assert self.headers["content-type"] == "application/json"
        value = json.loads(self.body)
        assert list(value) == ["detail"]
        return str(value["detail"])


def read_answer(connection: socket.socket) -> Answer:
    """Read to the end of the connection; what follows the first answer belongs to its body."""
    return Answer(_rest(connection))


def drip(connection: socket.socket, pieces: Iterable[bytes], pause: float = 0.02) -> Answer:
    """Send piece by piece until something is answered; return it."""
    connection.settimeout(pause)
    for piece in pieces:
        with contextlib.suppress(ConnectionError):
            connection.send(piece)
        with contextlib.suppress(TimeoutError):
            first = connection.recv(1)
            connection.settimeout(DEADLINE_SECONDS)
            return Answer(first + _rest(connection)) if first else Answer(b"")
    raise AssertionError("nothing was answered")


def _rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


Serve = Callable[..., Door]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(patience: Patience = CALM, *, most_connections: int = 1000) -> Door:
            app = Application()
            settings = load_settings(tmp_path, environ=LIMITS).settings
            server = HttpServer(app, settings, patience=patience)
            server._server.adj.connection_limit = most_connections
            server.start()
            stack.callback(server.stop)
            stack.callback(app.may_answer.set)
            door = Door(server, app)
            # The server asked itself once. While its thread ends that, one of a few connections
            # of a test would give way in its place.
            wait_for(lambda: not door.open_connections, "the server's own request to be over")
            return door

        yield start


def calm(**changes: float) -> Patience:
    return Patience(**{**vars(CALM), **changes})


# Slow clients ---------------------------------------------------------------------------------


def test_dripping_headers_are_ended_with_408(serve: Serve) -> None:
    door = serve(calm(header_seconds=0.3))
    with door.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        answer = drip(connection, itertools.repeat(b"A"))
    assert (answer.status, answer.detail) == (408, "The request took too long to arrive")
    assert answer.headers["connection"] == "close"
    assert door.is_serving()


def test_connection_that_says_nothing_is_closed_without_a_word(serve: Serve) -> None:
    door = serve(calm(header_seconds=0.3))
    with door.connect() as connection:
        assert connection.recv(1) == b""


def test_headers_of_a_following_request_have_a_deadline_of_their_own(serve: Serve) -> None:
    door = serve(calm(header_seconds=0.3))
    with door.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        answer = drip(connection, itertools.repeat(b"G"))
    assert answer.status == 408


def test_idle_connection_is_ended(serve: Serve) -> None:
    door = serve(calm(idle_seconds=0.3))
    with door.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection).status == 200  # reads to the end


def test_connection_that_is_used_now_and_then_is_kept(serve: Serve) -> None:
    door = serve(calm(idle_seconds=0.5, header_seconds=0.5))
    with door.connect() as connection:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(65536)
            assert not is_closed_within(connection, 0.1)


def is_closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    finally:
        connection.settimeout(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("header", "piece"),
    [
        ("Content-Length: 90000", b"x"),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
        ("Transfer-Encoding: chunked", b"1"),
    ],
    ids=["length", "chunks", "a chunk's line"],
)
def test_dripping_body_is_ended_with_408(serve: Serve, header: str, piece: bytes) -> None:
    door = serve(calm(body_window_seconds=0.5, least_body_rate=10_000))
    with door.connect() as connection:
        connection.sendall(f"{UPLOAD}{header}\r\n\r\n".encode())
        answer = drip(connection, itertools.repeat(piece))
    assert (answer.status, answer.detail) == (408, "The request took too long to arrive")
    assert door.is_serving()


def test_body_that_comes_slowly_but_steadily_is_taken(serve: Serve) -> None:
    # Each window sees at least half of what is sent in it, also on a machine that stutters.
    door = serve(calm(body_window_seconds=0.4, least_body_rate=1000))
    with door.connect() as connection:
        connection.sendall(f"{UPLOAD}Content-Length: 90000\r\nConnection: close\r\n\r\n".encode())
        started = time.monotonic()
        answer = drip(connection, itertools.chain([b"x" * 1500] * 60, itertools.repeat(b"")))
    assert time.monotonic() - started > 2 * 0.4
    assert (answer.status, answer.body) == (200, b"90000")


@pytest.mark.parametrize(
    "beginning", ["GET / HTTP/1.1\r\n", f"{UPLOAD}Content-Length: 9000\r\n\r\n"]
)
def test_a_door_that_never_looks_at_the_time_is_found(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, beginning: str
) -> None:
    monkeypatch.setattr(Connection, "look", lambda *_: None)
    short = dict.fromkeys(("header_seconds", "body_window_seconds"), 0.3)
    door = serve(calm(**short, least_body_rate=10_000))
    with door.connect() as connection:
        connection.sendall(beginning.encode())
        with pytest.raises(AssertionError, match="nothing was answered"):
            drip(connection, [b"A"] * 100)  # for two seconds


def test_who_never_reads_the_answer_is_ended(serve: Serve) -> None:
    door = serve(calm(unread_seconds=0.3))
    with door.connect() as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: door.open_connections == 1, "the connection")
        wait_for(lambda: door.open_connections == 0, "its end")
        with contextlib.suppress(ConnectionError):
            assert len(read_answer(connection).body) < ANSWER_BYTES


@pytest.mark.slow
def test_slow_reader_gets_the_whole_answer(serve: Serve) -> None:
    door = serve(calm(unread_seconds=0.6))
    with door.connect() as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        read, slow_until = 0, time.monotonic() + 4 * 0.6
        pace = threading.Event()
        while chunk := connection.recv(4096 if time.monotonic() < slow_until else 1024 * 1024):
            read += len(chunk)
            if time.monotonic() < slow_until:
                pace.wait(0.01)
    assert read > ANSWER_BYTES


def test_pipelined_requests_wait_until_answers_are_read(serve: Serve) -> None:
    door = serve()
    with door.connect() as connection:
        request = b"GET /long HTTP/1.1\r\nHost: x\r\n"
        connection.sendall((request + b"\r\n") * 2 + request + b"Connection: close\r\n\r\n")
        most = ANSWER_BYTES - 8 * 1024 * 1024  # the rest may be with the kernel
        wait_for(lambda: door.kept_bytes > most, "the first answer")
        assert all(door.is_serving() for _ in range(200))  # threads there are
        assert door.app.long_answers == 1
        assert len(read_answer(connection).body) > 3 * ANSWER_BYTES
    wait_for(lambda: door.open_connections == 0, "the end of the connection")


@pytest.mark.slow
def test_unread_answers_together_take_bounded_room(serve: Serve) -> None:
    door = serve(calm(most_unread_bytes=2 * ANSWER_BYTES))
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(door.connect()) for _ in range(4)]
        for connection in readers:
            connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: door.open_connections == 4, "all to be there")
        wait_for(lambda: door.open_connections == 2, "two of four to be ended")
        assert door.is_serving()
        read = sorted(len(content_until_end(connection)) for connection in readers)
        assert read[0] <= read[1] < ANSWER_BYTES < read[2] <= read[3]


def content_until_end(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return _rest(connection)
    return b""


def test_no_deadline_runs_while_the_server_is_at_work(serve: Serve) -> None:
    short = dict.fromkeys(("header_seconds", "body_window_seconds", "unread_seconds"), 0.2)
    door = serve(calm(**short))
    with door.connect() as connection:
        # The half of a following request waits with it.
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\n")
        wait_for(lambda: door.app.waiting == 1, "the request to be served")
        assert not is_closed_within(connection, 1)
        door.app.may_answer.set()
        assert b" 200 " in connection.recv(65536)
        connection.sendall(b"Host: x\r\nConnection: close\r\n\r\n")
        assert read_answer(connection).status == 200


# Too many -------------------------------------------------------------------------------------


def test_idle_connections_make_room_for_new_ones(serve: Serve) -> None:
    door = serve(most_connections=20)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(door.connect())
        started = time.monotonic()
        assert door.is_serving()
        assert time.monotonic() - started < 5
        assert door.open_connections <= 20


@pytest.mark.slow
def test_newcomers_survive_those_they_replace(serve: Serve) -> None:
    door = serve(most_connections=8)
    stack, end = contextlib.ExitStack(), time.monotonic() + 3
    failed = asked = 0
    with stack:
        while time.monotonic() < end:
            # Each leaves in the moment in which it may be closed to make room.
            crowd = [door.connect() for _ in range(30)]
            for connection in crowd:
                with contextlib.suppress(OSError):
                    connection.send(b"GET / HTTP/1.1\r\n")
                    connection.shutdown(socket.SHUT_WR)
            asked += 1
            try:
                failed += not door.is_serving()
            except OSError:
                failed += 1
            for connection in crowd:
                connection.close()
    assert asked > 5
    assert failed == 0


def test_half_a_request_gives_way_after_idle_ones_and_work_never_does(serve: Serve) -> None:
    door = serve(most_connections=20)
    with contextlib.ExitStack() as stack:
        at_work = [stack.enter_context(door.connect()) for _ in range(5)]
        for connection in at_work:
            connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: door.app.waiting == 5, "the requests to be served")
        uploading = stack.enter_context(door.connect())
        uploading.sendall(f"{UPLOAD}Connection: close\r\nContent-Length: 2\r\n\r\n1".encode())
        for _ in range(40):
            assert door.is_serving()
            stack.enter_context(door.connect()).sendall(b"GET / HTTP/1.1\r\n")
        uploading.sendall(b"2")
        assert read_answer(uploading).body == b"2"
        door.app.may_answer.set()
        assert [read_answer(connection).status for connection in at_work] == [200] * 5


def test_new_connections_wait_while_the_server_is_at_work_for_all_others(serve: Serve) -> None:
    door = serve(most_connections=5)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(door.connect())
            connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: door.app.waiting == 5, "the requests to be served")
        late = stack.enter_context(door.connect())
        late.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert not is_closed_within(late, 0.3)
        door.app.may_answer.set()
        assert read_answer(late).status == 200


def test_out_of_descriptors_the_server_does_not_spin(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = serve()
    accept, tries, end = Server.accept, [], time.monotonic() + 1.2

    def fail_for_a_while(server: Server) -> Any:
        if time.monotonic() > end:
            return accept(server)
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Server, "accept", fail_for_a_while)
    assert door.is_serving()
    assert 1 <= len(tries) <= 4


# Too large ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status", "detail"),
    [
        (
            "POST /api/v1/uploads/agent/1 HTTP/1.1\r\nContent-Length: 65537",
            401,
            "Not authenticated: send X-API-Key or Authorization: Bearer",
        ),
        (
            "POST /anything HTTP/1.1\r\nContent-Length: 65537",
            401,
            "Not authenticated: send X-API-Key or Authorization: Bearer",
        ),
        (
            f"{UPLOAD}Content-Length: {LARGEST_BYTES + 1}",
            413,
            "File exceeds the limit of 1,000,000 bytes",
        ),
        (
            "POST /api/v1/agents HTTP/1.1\r\nAuthorization: any\r\nContent-Length: 100001",
            413,
            "The JSON body is larger than 100000 bytes",
        ),
        (
            "POST /api/v1/auth/login HTTP/1.1\r\nContent-Length: 100001",
            413,
            "The JSON body is larger than 100000 bytes",
        ),
        (
            f"{UPLOAD}Content-Length: 999999999999999999",
            413,
            "The request body is too large",
        ),
    ],
)
@pytest.mark.parametrize("expect", ["", "\r\nExpect: 100-continue"])
def test_body_that_would_be_refused_is_not_waited_for(
    serve: Serve, request_head: str, status: int, detail: str, expect: str
) -> None:
    door = serve()
    answer = door.ask(f"{request_head}{expect}\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.detail) == (status, detail)
    assert answer.headers["connection"] == "close"
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        ("POST /api/v1/uploads/agent/1 HTTP/1.1\r\nContent-Length: 65536", 65536),
        ("POST /api/v1/auth/login HTTP/1.1\r\nContent-Length: 100000", 100_000),
        (f"{UPLOAD}Content-Length: {LARGEST_BYTES}", LARGEST_BYTES),
    ],
)
def test_what_may_be_let_in_reaches_the_application(
    serve: Serve, request_head: str, expected: int
) -> None:
    head = f"{request_head}\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = serve().ask(head, b"x" * expected)
    assert (answer.status, answer.body) == (200, str(expected).encode())


def test_body_of_unknown_length_is_refused_once_it_is_too_long(serve: Serve) -> None:
    door = serve()
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    for head, status in (("POST / HTTP/1.1\r\nHost: x\r\n", 401), (UPLOAD, 413)):
        with door.connect() as connection:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            answer = drip(connection, itertools.repeat(chunk), pause=0.001)
        assert answer.status == status


def test_endless_line_of_a_chunk_is_refused(serve: Serve) -> None:
    door = serve()
    for beginning in (b"1;", b"0\r\nA: "):
        with door.connect() as connection:
            connection.sendall(f"{UPLOAD}Transfer-Encoding: chunked\r\n\r\n".encode())
            connection.sendall(beginning)
            answer = drip(connection, itertools.repeat(b"x" * 4096), pause=0.001)
        assert (answer.status, answer.detail) == (400, "The request is not valid HTTP")


def test_client_that_sends_on_can_read_the_refusal(serve: Serve) -> None:
    door = serve()
    with door.connect() as connection:
        connection.sendall(f"{UPLOAD}Content-Length: 60000000\r\n\r\n".encode())
        for _ in range(60):
            connection.sendall(b"x" * 1_000_000)
        assert read_answer(connection).status == 413
    assert door.is_serving()


def test_refused_client_is_not_listened_to_for_ever(serve: Serve) -> None:
    door = serve(calm(linger_seconds=0.3))
    with door.connect() as connection:
        connection.sendall(f"{UPLOAD}Content-Length: 60000000\r\n\r\n".encode())
        assert read_answer(connection).status == 413
        wait_for(lambda: door.open_connections == 0, "the end of the connection")


@pytest.mark.parametrize(
    "request_head",
    [f"{UPLOAD}Content-Length: 60000000", f"{UPLOAD}Content-Length: many", "POST / HTTP/1.1"],
)
def test_refusals_can_be_read_by_pages_of_allowed_origins(serve: Serve, request_head: str) -> None:
    door = serve()
    rest = "\r\nTransfer-Encoding: zip" if request_head == "POST / HTTP/1.1" else ""
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        answer = door.ask(f"{request_head}\r\nOrigin: {origin}{rest}\r\n\r\n")
        assert answer.status in (400, 413, 501)
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert answer.headers["x-content-type-options"] == "nosniff"
        if allowed:
            assert answer.headers["vary"] == "Origin"
            assert answer.headers["access-control-expose-headers"].endswith("Retry-After")


# Ambiguous ------------------------------------------------------------------------------------

BOTH = "Content-Length: 4\r\nTransfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("version", "fields", "body"),
    [
        ("1.1", BOTH, b"0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 0", b"0\r\n\r\n"),
        ("1.1", "Transfer-Encoding:\r\nContent-Length: 4", b"1234"),
        ("1.1", "Transfer-Encoding: ", b""),
        ("1.1", "Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: Chunked,", b"0\r\n\r\n"),
        ("1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        ("1.0", f"Connection: keep-alive\r\n{BOTH}", b"0\r\n\r\n"),
        ("2.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked", b""),
        ("1.1", f"Content-Length: {'9' * 5000}", b""),
    ],
)
def test_request_whose_end_is_ambiguous_is_refused_with_all_that_follows(
    serve: Serve, version: str, fields: str, body: bytes
) -> None:
    head = f"POST / HTTP/{version}\r\nHost: x\r\nOrigin: {ORIGIN}\r\n{fields}\r\n\r\n"
    following = b"GET /followed HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = serve().ask(head, body + following)  # reads until the server ends the connection
    assert (answer.status, answer.detail) == (400, "The request is not valid HTTP")
    assert answer.headers["connection"] == "close"
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_chunked_request_leaves_the_connection_open_for_the_next(serve: Serve) -> None:
    chunked = "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding:\t Chunked \r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = serve().ask(chunked, b"3\r\nabc\r\n0\r\n\r\n" + last)
    assert answer.status == 200
    assert answer.body.startswith(b"3HTTP/1.1 200 OK")


# The disk -------------------------------------------------------------------------------------


def test_bodies_together_take_bounded_room(serve: Serve) -> None:
    door = serve()
    head = f"{UPLOAD}Connection: close\r\nContent-Length: {LARGEST_BYTES}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(door.connect()) for _ in range(4)]
        for connection in held:
            connection.sendall(head + b"x" * (LARGEST_BYTES - 1))
        wait_for(lambda: door.inner.room.free_bytes == 4, "the room to be taken")
        with door.connect() as connection:
            connection.sendall(head + b"x" * (LARGEST_BYTES - 1))
            answer = read_answer(connection)
        assert (answer.status, answer.detail) == (503, "Too many large requests at once")
        assert answer.headers["retry-after"] == "5"
        # Small ones need no room, and who holds some is served.
        assert (
            door.ask(f"{UPLOAD}Connection: close\r\nContent-Length: 1\r\n\r\n", b"x").body == b"1"
        )
        held[0].sendall(b"x")
        assert read_answer(held[0]).status == 200
        held[1].close()
        wait_for(lambda: door.inner.room.free_bytes > 2 * LARGEST_BYTES, "the room to be free")
        assert door.ask(head.decode(), b"x" * LARGEST_BYTES).status == 200
    wait_for(lambda: door.inner.room.free_bytes == 4 * LARGEST_BYTES, "all to be given back")


def test_slow_bodies_give_their_room_to_others(serve: Serve) -> None:
    door = serve(calm(body_window_seconds=0.5, least_body_rate=0, judged_after_seconds=0.2))
    head = f"{UPLOAD}Connection: close\r\nContent-Length: {LARGEST_BYTES}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(door.connect()) for _ in range(4)]
        for connection in held:
            connection.sendall(head + b"x" * (LARGEST_BYTES - 1))
        wait_for(lambda: door.inner.room.free_bytes == 4, "the room to be taken")
        # They were fast until now, and are judged by what comes in the next window: nothing.
        wait_for(lambda: door.ask(head.decode(), b"x" * LARGEST_BYTES).status == 200, "its turn")
        # At least one of them, as many as were due when room was asked for.
        turned_away, _, _ = select.select(held, [], [], DEADLINE_SECONDS)
        assert {read_answer(connection).status for connection in turned_away} == {503}


def ask_for_long_answers(door: Door, stack: contextlib.ExitStack, count: int) -> list[Any]:
    readers = [stack.enter_context(door.connect()) for _ in range(count)]
    for connection in readers:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return readers


class Disk:
    """A disk of which the answers take; tells the least that was ever free."""

    def __init__(self, door: Door, free_bytes: int) -> None:
        self.free_bytes = self.least_bytes = free_bytes
        self._door = door
        door.inner.answer_room._measure = self.measure

    def measure(self, _folder: Path) -> int:
        free = self.free_bytes - self._door.inner._bytes_in_files()
        self.least_bytes = min(free, self.least_bytes)
        return free


def test_unread_answers_leave_the_reserve_of_the_disk(serve: Serve) -> None:
    door = serve(calm(look_seconds=FOREVER))  # what is held between two looks
    reserve = door.inner.answer_room._reserve_bytes
    disk = Disk(door, reserve + 4 * ANSWER_BYTES)
    with contextlib.ExitStack() as stack:
        for number in range(1, 9):  # one by one, so that it is known who reads nothing for longest
            readers = ask_for_long_answers(door, stack, 1)
            wait_for(lambda: door.app.long_answers == number, "the answer to begin")  # noqa: B023
            wait_for(lambda: not any(c.requests for c in channels(door)), "its end")
            assert disk.measure(Path()) > reserve
        assert door.is_serving()
        # The last one got its answer, in place of others.
        assert len(content_until_end(readers[-1])) > ANSWER_BYTES


def channels(door: Door) -> list[Any]:
    return list(door.inner.active_channels.values())


def test_unread_answers_that_come_at_once_leave_the_reserve_of_the_disk(serve: Serve) -> None:
    door = serve(calm(look_seconds=FOREVER))
    reserve = door.inner.answer_room._reserve_bytes
    disk = Disk(door, reserve + 3 * ANSWER_BYTES)
    with contextlib.ExitStack() as stack:
        ask_for_long_answers(door, stack, 12)
        wait_for(lambda: door.app.long_answers == 12, "all answers to begin")
        wait_for(lambda: not any(c.requests for c in channels(door)), "their end")
        disk.measure(Path())  # also where the server never did
        assert disk.least_bytes > reserve
        assert door.is_serving()


def test_unread_answers_give_way_where_others_take_the_disk(serve: Serve) -> None:
    door = serve()
    reserve = door.inner.answer_room._reserve_bytes
    disk = Disk(door, reserve + 20 * ANSWER_BYTES)
    with contextlib.ExitStack() as stack:
        readers = ask_for_long_answers(door, stack, 4)
        wait_for(lambda: door.kept_bytes > 3.5 * ANSWER_BYTES, "the answers")
        disk.free_bytes = reserve + 7 * ANSWER_BYTES
        wait_for(lambda: door.open_connections == 2, "two to be ended")
        read = sorted(len(content_until_end(connection)) for connection in readers)
        assert read[1] < ANSWER_BYTES < read[2]


def test_long_answer_that_is_read_passes_a_nearly_full_disk(serve: Serve) -> None:
    door = serve()
    # In need a sixteenth may be taken, three quarters of the answer: what is read makes room.
    door.inner.answer_room._reserve_bytes = 100 * ANSWER_BYTES
    Disk(door, 12 * ANSWER_BYTES)
    answer = door.ask("GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert len(answer.body) == ANSWER_BYTES


@pytest.mark.filterwarnings("ignore:unclosed file")  # waitress drops the one that it cannot fill
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_answer_that_a_full_disk_does_not_take_ends_its_connection_with_a_line(
    serve: Serve, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = serve()
    door.inner.answer_room._measure = lambda _: 1 << 50  # it is full all of a sudden
    with contextlib.ExitStack() as stack:
        readers = ask_for_long_answers(door, stack, 3)
        wait_for(lambda: door.open_connections == 0, "the end of the connections")
        assert all(len(content_until_end(one)) < ANSWER_BYTES for one in readers)
    assert door.is_serving()
    assert not any(small_disk.iterdir())
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in told] == ["event=answer_not_kept reason=disk_full"] * 3
    assert not any(one.exc_info for one in caplog.records)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The disk of temporary files, of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_507_and_harms_nothing_else(serve: Serve, small_disk: Path) -> None:
    door = serve()
    head = f"{UPLOAD}Connection: close\r\nContent-Length: 1500000\r\n\r\n"
    for _ in range(3):
        answer = door.ask(head, b"x" * 1_500_000)
        assert (answer.status, answer.detail) == (507, "The server's disk is full")
    assert door.is_serving()
    small = head.replace("1500000", "300000")
    assert door.ask(small, b"x" * 300_000).body == b"300000"
    assert not any(small_disk.iterdir())
