"""Every test here is marked `faults`, and adopts what dead servers leave running."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.rig import Client, Promises, spare_what_runs
from tests.live_server import LiveServer

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session", autouse=True)
def _adopting_orphans() -> Iterator[None]:
    """Become the parent of whatever a dead server leaves behind, which tells it from all others."""
    spare_what_runs()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def _no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers use their disks to the last byte: a reserve is larger than these disks."""
    monkeypatch.setenv("DISK_RESERVE_MB", "0")


@dataclass
class Ground:
    """A data folder as a server left it in order, with one agent that works."""

    data: Path
    promises: Promises
    agent_id: int


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    data = tmp_path_factory.mktemp("template") / "data"
    with LiveServer(data) as live:
        client = Client(live.api, Promises()).sign_up("person")
        agent_id = client.new_agent()
        assert agent_id is not None
        version = client.upload(agent_id, 10)
        client.api.wait_for_build(agent_id, version.json["id"])
        assert client.execute(agent_id).json["status"] == "completed"
    return Ground(data, client.promises, agent_id)


@pytest.fixture
def new_ground(template: Ground, tmp_path: Path) -> Callable[[str], Ground]:
    """Make a copy of a data folder that was left in order."""

    def copy(name: str) -> Ground:
        shutil.copytree(template.data, tmp_path / name)
        return Ground(tmp_path / name, template.promises.copy(), template.agent_id)

    return copy


@pytest.fixture
def ground(new_ground: Callable[[str], Ground]) -> Ground:
    return new_ground("data")
