"""One server for each mode, for all cases; a new one after a case that failed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.agents.rig import MODES, Rig, Unavailable


def stop_for(reason: str) -> NoReturn:
    """Skip a test that cannot be had here, or fail it in CI.

    A Python that is root's alone is no reason to fail: CI has another one to try the same with.
    """
    if os.environ.get("CI") and "may not read Python" not in reason:
        pytest.fail(reason)
    pytest.skip(reason)


class Rigs:
    """Keeps one rig alive and replaces it when a case has left it in doubt."""

    def __init__(self, mode: str, new_folder: Callable[[], Path]) -> None:
        self._mode = mode
        self._new_folder = new_folder
        self._rig: Rig | None = None
        self._unavailable = ""

    def get(self) -> Rig:
        """Return the rig. Skips the test where there is no such mode, which in CI is a failure."""
        if self._rig is None and not self._unavailable:
            try:
                self._rig = Rig(self._new_folder(), self._mode).__enter__()
            except Unavailable as exc:
                self._unavailable = str(exc)
        if self._rig is None:
            stop_for(self._unavailable)
        return self._rig

    def drop(self) -> None:
        """Stop the rig; the next case gets another."""
        rig, self._rig = self._rig, None
        if rig is not None:
            rig.__exit__(None, None, None)

    def finish(self) -> None:
        """Check the last things, then stop."""
        if self._rig is not None:
            try:
                self._rig.finish()
            finally:
                self.drop()


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[], Path]]:
    """What makes folders that other users may pass through: a root server's agents are one."""
    with ExitStack() as stack:

        def make() -> Path:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o711)
            return folder

        yield make


@pytest.fixture(scope="session", params=list(MODES))
def rigs(request: pytest.FixtureRequest, new_folder: Callable[[], Path]) -> Iterator[Rigs]:
    found = Rigs(request.param, lambda: new_folder() / "data")
    yield found
    found.finish()
