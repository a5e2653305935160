"""Compares an execution over HTTP with a bare fork, side by side in one run.

    .venv/bin/python -m bench.execute [--rounds N]

Starts a server on a free port and a fresh data folder, deploys examples/hello, and then measures
in turn, round after round: one `POST /execute` on a kept-alive connection, and one
`os.fork` + `_exit` + `waitpid` of this small process. Absolute times say little on a shared
machine; the ratio of the two medians is the figure.
"""

import argparse
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_ROUNDS = 20


class Client:
    """A kept-alive connection that speaks JSON."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port)
        self.headers = {"Content-Type": "application/json"}

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "",
        *,
        base: str = "/api/v1",
    ) -> Any:
        """Send one request and return its JSON."""
        headers = self.headers | ({"Content-Type": content_type} if content_type else {})
        self._connection.request(method, f"{base}{path}", body, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text!r}")
        return json.loads(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as data:
        server, url = start_server(data)
        try:
            client = Client(url)
            agent_id = deploy(client)
            report(measure(rounds, {"execute": executor(client, agent_id), "fork": fork}))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def start_server(
    data: str, launcher: Path = ROOT / "run.py", **settings: str
) -> tuple["subprocess.Popen[str]", str]:
    """Start `run.py serve`, or another launcher's; return the process and its URL."""
    command = [sys.executable, str(launcher), "serve", "--port", "0", "--data", data]
    environment = {**os.environ, "LOG_LEVEL": "WARNING", **settings}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = server.stdout.readline() if server.stdout else ""
    if not line.startswith("Serving at "):
        raise RuntimeError(f"the server did not start: {line!r}")
    return server, line.split()[2]


def deploy(client: Client, folder: Path = ROOT / "examples" / "hello") -> int:
    """Make a user, a key and a ready agent of a folder; return the agent's id."""
    sign_up(client)
    return deploy_agent(client, folder)


def sign_up(client: Client) -> None:
    """Make a user and a key, and use them from here on."""
    person = {"email": "b@example.com", "username": "bench", "password": "correct horse"}
    client.call("POST", "/auth/register", json.dumps(person).encode())
    token = client.call("POST", "/auth/login", json.dumps(person).encode())["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    client.headers["X-API-Key"] = client.call("POST", "/api-keys", b'{"name": "bench"}')["key"]


def deploy_agent(client: Client, folder: Path) -> int:
    """Make a ready agent of a folder; return its id."""
    name = json.dumps({"name": folder.name}).encode()
    agent_id = int(client.call("POST", "/agents", name)["id"])
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.tar.gz"\r\n\r\n'
    form = head + pack(folder) + b"\r\n--b--\r\n"
    client.call("POST", f"/uploads/agent/{agent_id}", form, "multipart/form-data; boundary=b")
    while client.call("GET", f"/agents/{agent_id}")["status"] == "building":
        time.sleep(0.01)
    return agent_id


def pack(folder: Path) -> bytes:
    """Return a .tar.gz of a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def executor(client: Client, agent_id: int) -> Callable[[], None]:
    """Return what executes the agent once."""
    body = json.dumps({"payload": {"input": "Ada"}}).encode()

    def execute() -> None:
        execution = client.call("POST", f"/runtime/{agent_id}/execute", body)
        if execution["status"] != "completed":
            raise RuntimeError(execution["error_message"])

    return execute


def fork() -> None:
    """Fork, exit and wait: the least that a fresh process costs."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def measure(rounds: int, subjects: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Return the seconds of every subject's every round, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + WARM_UP_ROUNDS):
        for name, subject in subjects.items():
            started = time.perf_counter()
            subject()
            if number >= WARM_UP_ROUNDS:
                times[name].append(time.perf_counter() - started)
    return times


def report(times: dict[str, list[float]]) -> None:
    """Print medians, 99th percentiles and the ratio of the first two."""
    for name, seconds in times.items():
        median, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
        print(f"{name:10} median {median * 1000:7.2f} ms   p99 {p99 * 1000:7.2f} ms")
    first, second, *_ = times
    ratio = statistics.median(times[first]) / statistics.median(times[second])
    print(f"{first} / {second}: {ratio:.2f} (medians of {len(times[first])} rounds)")


if __name__ == "__main__":
    main()
