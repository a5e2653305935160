"""Measures how others fare while every slot and every place in line is taken.

    .venv/bin/python -m bench.full_house [--seconds N]

Starts a server, measures health, log-in, a list and a cancel with nothing else going on, then fills
all slots and places with executions that sleep, holds every long poll that a user may have, and
measures the same again for so many seconds. The aims: health under 50 ms at the 99th percentile,
cancel under 1 s, log-in and lists under 2 s.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.servers import Client, deploy_agent, serving

SOURCE = "import time\ndef handle(payload):\n    time.sleep(payload['seconds'])\n"
MANIFEST = "name: sleeper\nentrypoint: main:handle\nlimits: {timeout_seconds: 300}\n"
POLLS = 16  # of one user
IDLE_ROUNDS = 40

Times = dict[str, list[float]]


class House:
    """A server with an agent that sleeps, and those who call it."""

    def __init__(self, client: Client, url: str, folder: Path) -> None:
        self.url = url
        self.client = client
        (folder / "main.py").write_text(SOURCE)
        (folder / "anymind.yaml").write_text(MANIFEST)
        self._path = f"/runtime/{deploy_agent(self.client, folder)}/execute"
        self.client.headers["Prefer"] = "respond-async"

    def begin(self, seconds: float) -> Any:
        """Begin an execution that sleeps; returns its row, or None when there is no room."""
        body = json.dumps({"payload": {"seconds": seconds}}).encode()
        try:
            return self.client.call("POST", self._path, body)
        except RuntimeError as exc:
            if ": 503 " not in str(exc):
                raise
            return None

    def fill(self, seconds: float) -> list[int]:
        """Take every slot and place; return the ids."""
        begun = []
        while (row := self.begin(seconds)) is not None:
            begun.append(int(row["id"]))
        return begun

    def poll(self, execution_id: int) -> threading.Thread:
        """Wait for the end of an execution on another thread, again and again."""
        client = Client(self.url)
        client.headers |= self.client.headers

        def wait() -> None:
            path = f"/runtime/executions/{execution_id}?wait=60"
            while client.call("GET", path)["status"] in ("pending", "running"):
                pass

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def subjects(self, spare: list[int]) -> dict[str, Callable[[], object]]:
        """Return what is measured; each cancel takes one of the spare executions."""
        login = json.dumps({"username": "bench", "password": "correct horse"}).encode()
        api = self.client
        return {
            "health": lambda: api.call("GET", "/health", base=""),
            "login": lambda: api.call("POST", "/auth/login", login),
            "list": lambda: api.call("GET", "/runtime/executions?limit=20"),
            "cancel": lambda: (
                spare and api.call("POST", f"/runtime/executions/{spare.pop()}/cancel")
            ),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    with (
        tempfile.TemporaryDirectory() as data,
        tempfile.TemporaryDirectory() as folder,
        serving(Path(data), LOGIN_RATE_LIMIT="off") as (_server, client, url),
    ):
        house = House(client, url, Path(folder))
        idle = measure_idle(house)
        begun = house.fill(seconds + 60)
        polls = [house.poll(one) for one in begun[:POLLS]]
        full = measure(house, begun[POLLS:], seconds)
        report(len(begun), idle, full)
        for one in begun:
            house.client.call("POST", f"/runtime/executions/{one}/cancel")
        for poll in polls:
            poll.join()


def measure_idle(house: House) -> Times:
    """Return the seconds of each with nothing else going on."""
    times: Times = {}
    for _ in range(IDLE_ROUNDS):
        row = house.begin(60)
        for name, subject in house.subjects([row["id"]]).items():
            _take(times, name, subject)
    return times


def measure(house: House, spare: list[int], seconds: float) -> Times:
    """Return the seconds of each while the house is full; health is asked most."""
    times: Times = {}
    deadline = time.monotonic() + seconds
    subjects = house.subjects(spare)
    while time.monotonic() < deadline:
        for name, subject in subjects.items():
            if name != "cancel" or spare:
                _take(times, name, subject)
            for _ in range(10):
                _take(times, "health", subjects["health"])
    return times


def _take(times: Times, name: str, subject: Callable[[], object]) -> None:
    started = time.perf_counter()
    subject()
    times.setdefault(name, []).append(time.perf_counter() - started)


def report(begun: int, idle: Times, full: Times) -> None:
    """Print a line for each subject."""
    print(f"{begun} executions in slots and places, {POLLS} long polls")
    print(f"{'':8}{'idle p50':>10}{'full p50':>10}{'full p99':>10}{'most':>10}{'times':>8}")
    for name, before in idle.items():
        during = sorted(full.get(name, [0.0]))
        figures = (
            statistics.median(before),
            statistics.median(during),
            during[min(len(during) - 1, int(len(during) * 0.99))],
            during[-1],
        )
        shown = "".join(f"{figure * 1000:>10.1f}" for figure in figures)
        print(f"{name:8}{shown}{len(during):>8}   ms")


if __name__ == "__main__":
    main()
