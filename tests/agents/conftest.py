"""One server for each mode, for all cases; a new one after a case that failed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agents.rig import MODES, Rig, Unavailable


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
            (pytest.fail if os.environ.get("CI") else pytest.skip)(self._unavailable)
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


@pytest.fixture(scope="session", params=list(MODES))
def rigs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rigs]:
    found = Rigs(request.param, lambda: tmp_path_factory.mktemp(request.param) / "data")
    yield found
    found.finish()
