"""A request executes no more than it did: counted, so that it shows through a machine's noise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.instructions import PYTHON, REQUESTS, baseline
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent

# In each request a server with a fault does what it says besides.
MUTANT = """
import sys
from bench import instructions
from anymind_lite.database import database
from anymind_lite.services.executor import Executor

create_app, execute = instructions.create_app, Executor.run

def create(backend):
    app = create_app(backend)
    app.before_request(lambda: {fault} and None)
    return app

def run(*arguments, **named):
    {fault}
    return execute(*arguments, **named)

if {in_requests}:
    instructions.create_app = create
else:
    Executor.run = run
instructions.main()
"""


@pytest.fixture(autouse=True)
def _a_baseline() -> None:
    """Skip where nothing was counted with this Python before; in CI that is a failure."""
    if not baseline():
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop(f"bench/instructions.json has nothing for Python {PYTHON}")


def count(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_the_baseline_knows_every_request() -> None:
    assert baseline().keys() == REQUESTS.keys()


def test_no_request_executes_a_tenth_more_than_it_did() -> None:
    done = count("-m", "bench.instructions")
    assert done.returncode == 0, done.stderr


FAULTS = pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("[one for one in range(5000)]", "bytecodes"),
        ("[abs(one) for one in range(500)]", "calls of C"),
        ("[database.execute_sql('SELECT 1') for _ in range(2)]", "statements"),
    ],
)


@FAULTS
def test_a_request_that_executes_more_is_named(fault: str, kind: str) -> None:
    done = count("-c", MUTANT.format(fault=fault, in_requests=True))
    assert done.returncode == 1
    assert f" {kind}, " in done.stderr
    assert "get an agent: " in done.stderr


@FAULTS
def test_an_execute_that_executes_more_is_named_alone(fault: str, kind: str) -> None:
    done = count("-c", MUTANT.format(fault=fault, in_requests=False))
    assert done.returncode == 1
    assert f" {kind}, " in done.stderr
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} == {"execute an agent"}
