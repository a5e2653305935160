"""What is not quite HTTP: refused in JSON, and the server lives on."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from anymind_lite.cli._http_server import connection_limit
from tests.live_server import Api, LiveServer, pack_agent

STRANGE = {
    "nonsense": (b"NONSENSE\r\n\r\n", 400),
    "bad_header": (b"GET /health HTTP/1.1\r\nno colon here\r\n\r\n", 400),
    "bad_length": (b"POST /health HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
    "two_lengths": (
        b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        400,
    ),
    "unknown_encoding": (b"POST /health HTTP/1.1\r\nTransfer-Encoding: zip\r\n\r\n", 501),
    "huge_header": (b"GET /health HTTP/1.1\r\nA: " + b"x" * 262_200 + b"\r\n\r\n", 431),
    "huge_body": (b"POST /health HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 413),
    "path_not_utf8": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "path_of_escapes": (b"GET /%00%ff%0d%0a HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "unknown_method": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "dots": (b"GET /api/v1/uploads/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 401),
}


def converse(url: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes; return status, headers (lower case) and body."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_refused_is_refused_in_json(server: LiveServer, name: str) -> None:
    request, expected = STRANGE[name]
    status, headers, body = converse(server.url, request)
    assert status == expected, body
    assert headers["content-type"] == "application/json"
    answer = json.loads(body)
    assert list(answer) == ["detail"]
    assert isinstance(answer["detail"], str)
    assert server.api.call("GET", "/health").status == 200


def test_an_upload_without_a_length_is_capped(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("cap") / "data"
    with LiveServer(data, settings={"UPLOAD_MAX_SIZE": "100000"}) as live:
        api = live.api.new_user("chunky")
        agent_id = api.new_agent()
        head = (
            f"POST /api/v1/uploads/agent/{agent_id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"X-API-Key: {api.headers['X-API-Key']}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        ).encode()
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.tar.gz"\r\n\r\n'
        body = part + b"\x1f\x8b" + b"x" * 200_000 + b"\r\n--b--\r\n"
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(body[i : i + 5000]), body[i : i + 5000])
            for i in range(0, len(body), 5000)
        )
        status, headers, answer = converse(live.url, head + chunks + b"0\r\n\r\n")
        assert (status, headers["content-type"]) == (413, "application/json"), answer
        assert (
            Api(live.url, api.headers).call("GET", f"/api/v1/agents/{agent_id}").json["status"]
            == "draft"
        )
        assert [path for path in (data / "artifacts").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("open_files", "expected"),
    [
        (0, 16),
        (64, 16),
        (333, 16),
        (334, 17),
        (1024, 362),
        (2299, 999),
        (2300, 1000),
        (1_048_576, 1000),
        (resource.RLIM_INFINITY, 1000),
    ],
)
def test_connections_leave_descriptors_for_the_rest(open_files: int, expected: int) -> None:
    assert connection_limit(open_files, threads=100) == expected


def test_server_that_may_open_few_files_answers_while_many_connect(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", open_files=(300, 300)) as live:
        where = urlsplit(live.url)
        idle = [socket.create_connection((where.hostname, where.port)) for _ in range(80)]
        assert live.api.call("GET", "/health").status == 200
        live.api.new_user("person")
        for connection in idle:
            connection.close()


def test_soft_limit_of_open_files_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", open_files=(256, 4000)) as live:
        limits = resource.prlimit(live.process.pid, resource.RLIMIT_NOFILE)
        assert limits == (4000, 4000)


def test_importing_the_commands_changes_no_limit() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4000));"
        "import anymind_lite.cli._running;"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"256\n"


@pytest.mark.slow
def test_slow_readers_hold_no_thread(tmp_path: Path) -> None:
    few_threads = {"WORKER_CONCURRENCY": "1", "EXECUTION_QUEUE_SIZE": "0"}
    with LiveServer(tmp_path / "data", settings=few_threads) as live:
        api = live.api.new_user("reader")
        agent_id = api.deploy(pack_agent("def handle(payload):\n    return payload\n"))
        for _ in range(12):
            assert api.execute(agent_id, {"text": "x" * 1_000_000}).json["status"] == "completed"
        where = urlsplit(live.url)
        head = (
            "GET /api/v1/runtime/executions HTTP/1.1\r\nHost: x\r\n"
            f"X-API-Key: {api.headers['X-API-Key']}\r\n\r\n"
        )
        with contextlib.ExitStack() as stack:
            for _ in range(18):  # one more than there are threads
                connection = socket.create_connection((where.hostname, where.port), timeout=30)
                stack.enter_context(connection)
                connection.sendall(head.encode())
                assert connection.recv(12) == b"HTTP/1.1 200"
            assert live.api.call("GET", "/health").status == 200


@pytest.mark.slow
def test_long_list_is_not_kept_in_memory(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        api = live.api.new_user("reader")
        agent_id = api.deploy(pack_agent("def handle(payload):\n    return payload\n"))
        for _ in range(100):
            assert api.execute(agent_id, {"text": "x" * 400_000}).json["status"] == "completed"
        before = peak_bytes(live.process.pid)
        assert len(api.call("GET", "/api/v1/runtime/executions").body) > 80_000_000
        assert peak_bytes(live.process.pid) - before < 40_000_000


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has ever had (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# Crowds -------------------------------------------------------------------------------------------


def drippers(where: tuple[str, int], count: int) -> Iterator[tuple[socket.socket, bytes]]:
    """Open connections, each with what it goes on sending, byte by byte, or nothing."""
    head = b"POST /api/v1/uploads/agent/1 HTTP/1.1\r\nHost: x\r\nX-API-Key: any\r\n"
    kinds = (
        (b"GET /health HTTP/1.1\r\nA: ", b"x"),
        (head + b"Content-Length: 90000000\r\n\r\n", b"x"),
        (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20, b""),
    )
    for number in range(count):
        beginning, piece = kinds[number % len(kinds)]
        connection = socket.create_connection(where, timeout=30)
        connection.sendall(beginning)
        yield connection, piece


@contextlib.contextmanager
def dripping(url: str, count: int) -> Iterator[None]:
    """Have so many slow clients; each sends its next byte 20 times a second and reads nothing."""
    where, end = urlsplit(url), threading.Event()
    clients = list(drippers((str(where.hostname), int(where.port or 0)), count))

    def drip() -> None:
        while not end.wait(0.05):
            for connection, piece in clients:
                with contextlib.suppress(OSError):
                    connection.send(piece)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        for connection, _ in clients:
            connection.close()


def slowest_health(api: Api, count: int) -> float:
    """Return the seconds that the slowest of so many calls took, each on its own connection."""
    slowest = 0.0
    for _ in range(count):
        started = time.monotonic()
        assert api.call("GET", "/health", timeout=10).json == {"status": "healthy"}
        slowest = max(slowest, time.monotonic() - started)
    return slowest


@pytest.mark.slow
def test_a_hundred_dripping_clients_hold_nobody_up(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live:
        with dripping(live.url, 100):
            # Longer than the first deadlines are, so that the ends of them are seen too.
            end = time.monotonic() + 35
            while time.monotonic() < end:
                assert slowest_health(live.api, 50) < 2
        assert slowest_health(live.api, 50) < 2


@pytest.mark.slow
def test_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as live, contextlib.ExitStack() as stack:
        where = urlsplit(live.url)
        for number in range(1200):
            connection = socket.create_connection((where.hostname, where.port), timeout=30)
            stack.enter_context(connection)
            if number % 2:
                connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert slowest_health(live.api, 20) < 5
        live.api.new_user("person")


@pytest.mark.slow
def test_connections_beyond_the_descriptors_of_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", open_files=(300, 300)) as live:
        with dripping(live.url, 400):
            assert slowest_health(live.api, 20) < 10
            api = live.api.new_user("person")
        agent_id = api.deploy(pack_agent("def handle(payload):\n    return payload\n"))
        assert api.execute(agent_id, {"a": 1}).status == 201
