"""The browser, and servers under test that know the origin of the page."""

import os
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, find_program


@pytest.fixture
def chromium(tmp_path: Path) -> Chromium:
    """A browser; without one the test is skipped, but not where everything must be tested."""
    program = find_program()
    if program is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("Chromium is not installed")
    return Chromium(program, tmp_path / "profile")
