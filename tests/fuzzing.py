"""Trying a claim with generated input, ANYMIND_FUZZ_SECONDS long; needs Hypothesis."""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_ROUND = 200  # examples that are made from one seed: the clock is looked at in between


def fuzz(strategy: Any, check: Callable[[Any], None], *, usual_seconds: float = 1.0) -> int:
    """Try `check` with what `strategy` makes; return how often. A failure is shown shrunk.

    Every run draws anew, and what it fails with can be put into a test of its own.
    """
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis.configuration import set_hypothesis_home_dir

    # What hypothesis keeps for itself is no part of the project's folder.
    set_hypothesis_home_dir(Path(tempfile.gettempdir(), f"hypothesis-{os.getuid()}"))
    deadline = time.monotonic() + float(os.environ.get("ANYMIND_FUZZ_SECONDS", usual_seconds))
    tried = 0

    def count_and_check(value: Any) -> None:
        nonlocal tried
        tried += 1
        check(value)

    options = settings(
        max_examples=_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    while time.monotonic() < deadline:
        number = int.from_bytes(os.urandom(8))
        trial = seed(number)(given(strategy)(count_and_check))  # type: ignore[no-untyped-call]
        options(trial)()
    print(f"{tried} examples")
    return tried


def needs_hypothesis() -> None:
    """Skip the module without Hypothesis; that it is there where it must be is a test's claim."""
    if importlib.util.find_spec("hypothesis") is None:
        pytest.skip("hypothesis is not installed", allow_module_level=True)
