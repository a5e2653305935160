"""Control groups: taken only when they are ours, joined by each run, removed with all in them.

No controller is needed here: what is written is compared with what the kernel documents, and the
groups themselves are real where there is a file system of them that we may write to.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anymind_lite.sandbox.in_server import cgroup
from anymind_lite.sandbox.in_server.cgroup import Cgroups, NotDelegated, RunCgroup
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.policy import MEGABYTE, Limits
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for


def imitate(folder: Path, **files: str) -> Path:
    """Make a folder that looks like a group."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A group that is this process's alone and may be divided."""
    folder = imitate(
        tmp_path / "own",
        cgroup__controllers="cpu memory pids\n",
        cgroup__procs=f"{os.getpid()}\n",
        cgroup__type="domain\n",
        cgroup__subtree_control="",
    )
    monkeypatch.setattr(cgroup, "_find_own_group", lambda: folder)
    monkeypatch.setattr(os, "getxattr", lambda *_: b"1", raising=False)
    return folder


def test_group_that_is_handed_over_is_divided(own: Path) -> None:
    Cgroups.take()
    assert (own / "anymind-server" / "cgroup.procs").read_text() == "0"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"


REFUSED = {
    "controllers": ({"cgroup__controllers": "cpu"}, "no memory and no pids controller"),
    "one controller": ({"cgroup__controllers": "cpu memory"}, "no pids controller"),
    "others": ({"cgroup__procs": f"{os.getpid()}\n1\n"}, "other processes are in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_group_that_is_not_ours_is_left_alone(own: Path, name: str) -> None:
    files, reason = REFUSED[name]
    imitate(own, **files)
    with pytest.raises(NotDelegated, match=reason):
        Cgroups.take()
    assert not (own / "anymind-server").exists()


def test_topmost_group_is_left_alone(own: Path) -> None:
    (own / "cgroup.type").unlink()
    with pytest.raises(NotDelegated, match="topmost"):
        Cgroups.take()


def test_group_without_its_owners_mark_is_left_alone(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError

    monkeypatch.setattr(os, "getxattr", refuse, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(NotDelegated, match="not delegated"):
        Cgroups.take()


def test_group_that_cannot_be_divided_is_told(own: Path) -> None:
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()
    with pytest.raises(NotDelegated, match="cannot be divided"):
        Cgroups.take()
    assert (own / "cgroup.procs").read_text() == "0"  # moved back


def test_limits_of_a_run_are_written(tmp_path: Path) -> None:
    imitate(tmp_path / "run", memory__swap__max="max", cgroup__procs="")
    limits = Limits(data_bytes=100 * MEGABYTE, scratch_bytes=10 * MEGABYTE, processes=7)
    group = RunCgroup(tmp_path / "run", limits)
    os.close(group.procs_fd)
    written = {path.name: path.read_text() for path in (tmp_path / "run").iterdir()}
    assert written == {
        "memory.max": str(142 * MEGABYTE),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "cgroup.procs": "",
    }


@pytest.mark.parametrize(("count", "told"), [("0", False), ("1", True), ("12", True)])
def test_kill_for_memory_is_told(tmp_path: Path, count: str, told: bool) -> None:
    events = f"low 0\nhigh 0\nmax 9\noom 3\noom_kill {count}\noom_group_kill 0\n"
    imitate(tmp_path / "run", cgroup__procs="", memory__events=events)
    group = RunCgroup(tmp_path / "run", Limits())
    os.close(group.procs_fd)
    assert group.ran_out_of_memory() is told


# Real groups --------------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real group without controllers, which not every machine lets us make."""
    try:
        path = cgroup._find_own_group() / f"anymind-test-{os.getpid()}"
        path.mkdir()
    except (NotDelegated, OSError) as exc:
        pytest.skip(f"no group may be made here: {exc}")
    monkeypatch.setattr(RunCgroup, "_write", lambda *_: None)
    monkeypatch.setattr(RunCgroup, "ran_out_of_memory", lambda _: False)
    yield path
    path.rmdir()


def test_run_joins_its_group_and_leaves_none(
    real: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroups, "take", lambda: Cgroups(real))
    sandbox.supervisor.stop()
    sandbox.supervisor.start()
    outcomes = []
    source = "import time\ndef handle(payload): time.sleep(60)"
    thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(source, key="long")))
    thread.start()
    (group,) = wait_for(lambda: [path for path in real.iterdir() if path.is_dir()], "a group")
    wait_for(lambda: (group / "cgroup.procs").read_text().split(), "the run to join it")
    assert sandbox.supervisor.cancel("long")
    thread.join()
    assert outcomes[0].reason is StopReason.CANCELLED
    assert outcomes[0].layers[0] == "cgroup"
    assert not [path for path in real.iterdir() if path.is_dir()]


def test_groups_of_a_killed_server_are_removed_with_all_in_them(real: Path) -> None:
    old = real / "anymind-run-old"
    old.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        (old / "cgroup.procs").write_text(str(sleeper.pid))
        Cgroups(real).remove_old_runs()
        assert sleeper.wait(10) == -9
    assert not old.exists()
