"""Waiting for an event with a deadline: the only way a test here may wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Generous: a loaded machine is no failure. Nothing waits this long unless it fails.
DEADLINE_SECONDS = 60.0
_PAUSE_SECONDS = 0.01


def wait_for(look: Callable[[], T | None], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Return what `look` finds once it is true; fail after the deadline, naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(_PAUSE_SECONDS)
