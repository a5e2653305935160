"""Real servers for the tests that go through the public door."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.live_server import Api, LiveServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests that need nothing special of it; runs end after 2 seconds."""
    settings = {"EXECUTION_TIMEOUT_SECONDS": "2", "BUILD_TIMEOUT_SECONDS": "5"}
    with LiveServer(tmp_path_factory.mktemp("system") / "data", settings=settings) as live:
        yield live


@pytest.fixture
def new_user(server: LiveServer) -> Callable[[], Api]:
    return lambda: server.api.new_user(f"person{next(_numbers)}")


@pytest.fixture
def api(new_user: Callable[[], Api]) -> Api:
    """The server as seen by a user of this test alone."""
    return new_user()
