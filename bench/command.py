"""The command `run.py bench`: what to measure, for how long, and where the figures go."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import builds, executions, memory, page, sizes, starts, writers
from bench.agents import PACKAGES
from bench.executions import Plan
from bench.figures import Findings


@dataclass(frozen=True)
class Size:
    """How much a run measures."""

    plan: Plan
    executions: Sequence[int]
    keys: Sequence[int]
    requests: int
    starts: int
    uploads: int
    write_seconds: float
    weighed: Sequence[str]


FULL = Size(
    Plan(tuple(PACKAGES), (1, 4, 16), rounds=5, seconds=1.0),
    executions=(10_000, 100_000, 1_000_000),
    keys=(10, 10_000),
    requests=300,
    starts=15,
    uploads=100,
    write_seconds=20,
    weighed=("hello", "pydantic", "numpy"),
)
QUICK = Size(
    Plan(("hello",), (1, 4), rounds=2, seconds=0.3),
    executions=(1000, 10_000),
    keys=(10, 1000),
    requests=40,
    starts=3,
    uploads=10,
    write_seconds=2,
    weighed=("hello",),
)

Say = Callable[[str], None]
SUITES: dict[str, Callable[[Size, Findings, Say], None]] = {
    "executions": lambda size, found, say: executions.measure(size.plan, found, say),
    "memory": lambda size, found, say: memory.measure(size.weighed, found, say),
    "sizes": lambda size, found, say: sizes.measure(
        size.executions, size.keys, size.requests, found, say
    ),
    "starts": lambda size, found, say: starts.measure(size.starts, found, say),
    "builds": lambda size, found, say: builds.measure(size.uploads, found, say),
    "writers": lambda size, found, say: writers.measure(size.write_seconds, found, say),
}


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write what was asked for."""
    options = _parse(arguments)
    findings = Findings(machine=page.describe_machine())
    if options.read:
        findings = Findings.from_json(json.loads(options.read.read_text(encoding="utf-8")))
    else:
        size = _size(options)
        for name in options.suite or SUITES:
            SUITES[name](size, findings, _say)
    print(page.to_markdown(findings))
    if options.json:
        options.json.write_text(json.dumps(findings.to_json(), indent=1), encoding="utf-8")
    if options.write_docs:
        page.write_page(findings)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py bench",
        description="Measure Anymind Lite beside what it is compared with, on this machine.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute instead of three quarters of an hour"
    )
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this; may repeat")
    parser.add_argument("--agent", action="append", choices=PACKAGES, help="only this; may repeat")
    parser.add_argument("--clients", action="append", type=int, help="only so many; may repeat")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show such a file again")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md")
    return parser.parse_args(arguments)


def _size(options: argparse.Namespace) -> Size:
    """Return what is measured: one of the two sizes, with what was asked for in its place."""
    size = QUICK if options.quick else FULL
    plan = Plan(
        options.agent or size.plan.agents,
        options.clients or size.plan.clients,
        options.rounds or size.plan.rounds,
        size.plan.seconds if options.seconds is None else options.seconds,
    )
    return Size(**{**vars(size), "plan": plan})


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)
