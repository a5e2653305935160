"""Ordinary Python in the sandbox: what works, and what docs/sandbox.md says of what does not."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.policy import Limits, Tier
from anymind_lite.sandbox.protocol import Job, Mode
from tests.sandbox import ordinary_agent
from tests.sandbox.conftest import Sandbox
from tests.sandbox.layers import ordinary_python
from tests.sandbox.layers.children import missing
from tests.sandbox.ordinary_agent import REFUSED, WORKS

ROOT = Path(__file__).parent.parent.parent
LIMITS = Limits(wall_seconds=60.0, cpu_seconds=60)  # a loaded machine is no failure
MAIN = """
import tempfile
from pathlib import Path
import ordinary_agent
from ordinary_python import EVERYDAY

def handle(payload):
    kind, name = payload
    if kind == "everyday":
        return bool(EVERYDAY[name](Path(tempfile.mkdtemp())))
    if kind == "works":
        return bool(ordinary_agent.WORKS[name]())
    if kind == "refused":
        return ordinary_agent.what_happens(name)
    return ordinary_agent.missing_modules()
"""


@dataclass
class Agent:
    """The agent of this folder, in one sandbox."""

    sandbox: Sandbox
    allows_processes: bool = False

    def __post_init__(self) -> None:
        self.code = self.sandbox.folder / "ordinary"
        package = self.code / "own_package"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "data.txt").write_text("own data\n", encoding="utf-8")
        (self.code / "main.py").write_text(MAIN, encoding="utf-8")
        for module in (ordinary_agent, ordinary_python):
            shutil.copy(str(module.__file__), self.code)

    def run(self, kind: str, name: str = "") -> Outcome:
        job = Job(Mode.EXECUTE, LIMITS, str(self.code), "main:handle", self.allows_processes)
        payload = json.dumps([kind, name]).encode()
        return self.sandbox.supervisor.run(job, payload, key=f"{kind} {name}")

    def ask(self, kind: str, name: str = "") -> Any:
        """Return what a row returned, or how its run ended."""
        outcome = self.run(kind, name)
        if outcome.reason is StopReason.RETURNED:
            return outcome.details["result"]["result"]
        return outcome.message


# That the rows pass the filters of both kinds of agent is held by test_linux_seccomp.py too.
@pytest.mark.parametrize("allows_processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ordinary_python_works(either: Sandbox, allows_processes: bool) -> None:
    if allows_processes and not either.supervisor.ground.has_namespaces:
        pytest.skip("processes are for namespaces alone")
    agent = Agent(either, allows_processes)
    rows = [("works", name) for name in WORKS]
    rows += [("everyday", name) for name in ordinary_python.EVERYDAY]
    assert {row: found for row in rows if (found := agent.ask(*row)) is not True} == {}


def test_the_whole_standard_library_is_imported_as_outside(either: Sandbox) -> None:
    script = (
        f"import runpy; print(runpy.run_path({ordinary_agent.__file__!r})['missing_modules']())"
    )
    outside = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    found = Agent(either).ask("missing_modules")
    assert str(found) == outside.stdout.strip()
    assert set(found).isdisjoint({"asyncio", "ctypes", "json", "os", "re", "threading"})


@pytest.mark.parametrize("allows_processes", [False, True])
def test_what_does_not_work_says_so_as_written(sandbox: Sandbox, allows_processes: bool) -> None:
    if sandbox.supervisor.ground.tier is not Tier.A:
        missing("namespaces and filtered system calls")
    agent = Agent(sandbox, allows_processes)
    found = {name: agent.ask("refused", name) for name in REFUSED}
    wanted = {name: said[allows_processes + 1] for name, (said, _row) in REFUSED.items()}
    if allows_processes:
        assert "before it returned a result" in found.pop("execute")
        assert wanted.pop("execute") == "ends the run"
    assert found == wanted


def test_what_does_not_work_is_refused_in_tier_b_too(plain: Sandbox) -> None:
    agent = Agent(plain)
    found = {name: agent.ask("refused", name) for name in REFUSED}
    works = [name for name, happened in found.items() if happened == "works"]
    assert works == ["library_of_its_own_making"]


def test_the_page_and_the_rows_say_the_same() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    section = page.split("\n## What works inside\n", 1)[1].split("\n## ", 1)[0]
    table = section.split("| what | ", 1)[1]
    written = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    rows = dict.fromkeys(tuple(refusal) for refusal, _row in REFUSED.values())
    assert written == list(rows)
