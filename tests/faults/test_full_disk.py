"""A full disk: writes are refused with 507, all else goes on, and room is all that is needed."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Ground
from tests.faults.disks import command, fill, need_disks, small_disk
from tests.faults.rig import Client, Doomed, Inspection, client_of, in_background, serving
from tests.faults.test_damage import refusal
from tests.live_server import Answer, LiveServer
from tests.waiting import wait_for

LOGIN = {"username": "person", "password": "correct horse"}


@pytest.fixture(params=["tmpfs", "ext4"])
def ground(request: pytest.FixtureRequest, template: Ground, tmp_path: Path) -> Iterator[Ground]:
    """A data folder on a small disk of its own."""
    need_disks()
    with small_disk(request.param, tmp_path / "disk") as disk:
        shutil.copytree(template.data, disk / "data")
        yield Ground(disk / "data", template.promises.copy(), template.agent_id)


@dataclass
class Full:
    """A server on a disk that is full, until `make_room`."""

    live: LiveServer
    ballast: Path

    def make_room(self) -> None:
        self.ballast.unlink()


def fill_up(live: LiveServer, ground: Ground) -> Full:
    return Full(live, fill(ground.data.parent))


def test_writes_answer_507_and_all_else_goes_on_until_there_is_room(ground: Ground) -> None:
    with LiveServer(ground.data) as live:
        client = client_of(live, ground.promises)
        full = fill_up(live, ground)
        assert client.upload(ground.agent_id).status == 507
        refused = client.api.call("POST", "/api/v1/agents", {"name": "x" * 200})
        assert refused.status in (201, 507)  # a row may fit where a page still has room
        if refused.status == 201:
            ground.promises.agents.add(refused.json["id"])
        for path in ("/health", "/api/v1/agents", "/api/v1/runtime/executions"):
            assert client.api.call("GET", path).status == 200
        assert live.api.call("POST", "/api/v1/auth/login", LOGIN).status == 200
        big = client.execute(ground.agent_id, {"text": "x" * 400_000})
        assert big.status == 507
        full.make_room()
        assert client.upload(ground.agent_id).status == 201
        row = client.execute(ground.agent_id, {"text": "x" * 400_000}).json
        assert row["status"] == "completed"
    assert Inspection(ground.data, ground.promises).run() == []


def test_what_runs_while_the_disk_fills_has_its_end_once_there_is_room(ground: Ground) -> None:
    with LiveServer(ground.data) as live:
        client = client_of(live, ground.promises)
        assert end_on_a_full_disk(live, client, ground)["status"] == "completed"
    assert Inspection(ground.data, ground.promises).run() == []


def end_on_a_full_disk(live: LiveServer, client: Client, ground: Ground) -> dict[str, Any]:
    """Have an execution end where its end has no room; return its row once there is room."""
    assert client.execute(ground.agent_id).status == 201  # now its code is unpacked
    answers: list[Answer] = []
    payload = {"sleep": 2, "text": "x" * 400_000}
    running = in_background(lambda: answers.append(client.execute(ground.agent_id, payload)))
    (row,) = wait_for(client.unfinished, "the agent to run")
    ballast = fill(ground.data.parent)
    running.join()
    address = f"/api/v1/runtime/executions/{row['id']}"
    assert [(answer.status, answer.headers["Location"]) for answer in answers] == [(507, address)]
    assert client.api.call("GET", address).json["output_data"] is None
    ballast.unlink()
    wait_for(lambda: not client.unfinished(), "the execution to end", 15)
    end: dict[str, Any] = client.api.call("GET", address).json
    assert end["output_data"] in (None, {"echo": payload})
    return end


def test_a_server_that_forgets_ends_is_caught(template: Ground, tmp_path: Path) -> None:
    need_disks()
    with small_disk("tmpfs", tmp_path / "disk") as disk:
        shutil.copytree(template.data, disk / "data")
        ground = Ground(disk / "data", template.promises.copy(), template.agent_id)
        with serving(Doomed(ground.data, mutants=["forgotten_ends"])) as live:
            end = end_on_a_full_disk(live, client_of(live, ground.promises), ground)
    assert (end["status"], end["error_code"]) == ("failed", "sandbox_failure")


def test_a_build_on_a_full_disk_is_done_once_there_is_room(ground: Ground) -> None:
    with LiveServer(ground.data) as live:
        client = client_of(live, ground.promises)
        with (ground.data / "artifacts" / "room").open("wb") as room:
            room.write(b"\0" * 2_000_000)
        full = fill_up(live, ground)
        Path(room.name).unlink()  # enough for the upload, too little for its code
        version = client.upload(ground.agent_id, 800_000)
        assert version.status in (201, 507)
        full.make_room()
    assert Inspection(ground.data, ground.promises).run() == []


def test_a_server_on_a_full_disk_starts_or_says_why_not(ground: Ground) -> None:
    full = fill(ground.data.parent)
    live = LiveServer(ground.data)
    try:
        live.start()
        assert live.api.call("GET", "/health").status == 200
    except AssertionError:
        assert "o space left" in live.output or "disk is full" in live.output, live.output
        assert "backup" not in live.output, live.output
        assert "Traceback" not in live.output, live.output
    finally:
        live.stop()
    full.unlink()
    assert Inspection(ground.data, ground.promises).run() == []


def test_a_disk_that_is_read_only_refuses_to_start(ground: Ground) -> None:
    command("mount", "-o", "remount,ro", ground.data.parent)
    assert "Read-only file system" in refusal(ground.data)
    command("mount", "-o", "remount,rw", ground.data.parent)
    assert Inspection(ground.data, ground.promises).run() == []
