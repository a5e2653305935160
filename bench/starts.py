"""Suite `starts`: from starting the server to its first answer, beside the start of a Python."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from bench.figures import Findings
from bench.servers import Client, start_server, stop_server

START = "server start to the first 200"
PYTHON = "`python -c pass`, beside it"


def measure(rounds: int, findings: Findings, say: Callable[[str], None]) -> None:
    """Start both in turn, with a database that is there; add the medians."""
    say(f"starting the server {rounds} times")
    servers, pythons = [], []
    with tempfile.TemporaryDirectory() as data:
        start_once(data)  # makes the database
        for _ in range(rounds):
            servers.append(start_once(data))
            pythons.append(statistics.median(start_python() for _ in range(3)))
    findings.add(START, statistics.median(servers) * 1000, "ms")
    findings.add(PYTHON, statistics.median(pythons) * 1000, "ms")


def start_once(data: str) -> float:
    """Start a server and end it; return the seconds to its first answer."""
    began_at = time.perf_counter()
    server, url = start_server(data)
    try:
        client = Client(url)
        client.call("GET", "/health", base="")
        seconds = time.perf_counter() - began_at
        client.close()
    finally:
        stop_server(server)
    return seconds


def start_python() -> float:
    """Start a Python that does nothing; return the seconds to its end."""
    began_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began_at
