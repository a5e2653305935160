"""A real supervisor with a real zygote, and agents written on the spot."""

import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import supervisor as supervisor_module
from anymind_lite.sandbox.in_server.outcome import Outcome
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits, Tier
from anymind_lite.sandbox.protocol import Job, Mode
from tests.sandbox.layers.children import missing


@dataclass
class Sandbox:
    """Runs source code as an agent."""

    supervisor: Supervisor
    folder: Path
    scratch: Path
    limits: Limits = field(default_factory=Limits)
    allows_processes: bool = False
    runs: int = 0

    def run(
        self,
        source: str,
        payload: Any = None,
        *,
        mode: Mode = Mode.EXECUTE,
        entrypoint: str = "main:handle",
        key: str = "",
        files: dict[str, str] | None = None,
        allows_processes: bool | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
        **limits: Any,
    ) -> Outcome:
        """Write `main.py` and run it; keyword arguments are limits."""
        self.runs += 1
        code = self.folder / str(self.runs)
        for name, text in {"main.py": source, **(files or {})}.items():
            path = code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        code.chmod(0o755)  # a root server's agents are another user
        job = Job(
            mode,
            replace(self.limits, **limits),
            str(code),
            entrypoint,
            self.allows_processes if allows_processes is None else allows_processes,
        )
        return self.supervisor.run(
            job,
            json.dumps(payload).encode(),
            key=key or f"run-{self.runs}",
            is_wanted=is_wanted,
        )


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    scratch = tmp_path / "scratch"
    supervisor = Supervisor(scratch, tmp_path / "code")
    supervisor.start()
    yield Sandbox(supervisor, tmp_path / "code", scratch)
    supervisor.stop()


# The stub of a machine that refuses namespaces, or all walls.
WEAK_STUB = """
import errno, sys
sys.path.insert(0, {root!r})
from anymind_lite.sandbox.in_zygote import ground, stub

def refuse(_):
    raise OSError(errno.EPERM, "refused by a test")

ground.probe = refuse
if {is_bare!r}:
    ground.linux_landlock.why_not = ground.linux_seccomp.why_not = lambda: "refused by a test"
stub.main()
"""
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may pass through, as a root server's agents are one."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


def weak_sandbox(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_bare: bool
) -> Iterator[Sandbox]:
    stub = path / "stub.py"
    stub.write_text(WEAK_STUB.format(root=str(ROOT), is_bare=is_bare), encoding="utf-8")
    monkeypatch.setattr(supervisor_module, "_STUB_PATH", stub)
    least = Tier.C if is_bare else Tier.B
    supervisor = Supervisor(path / "weak-scratch", path / "weak-code", min_tier=least)
    supervisor.start()
    try:
        if "may not read Python" in supervisor.ground.error:
            pytest.skip("this Python's own files are closed to others")
        if supervisor.ground.tier is not least:
            missing(f"tier {least}: {supervisor.ground}")
        yield Sandbox(supervisor, path / "weak-code", path / "weak-scratch")
    finally:
        supervisor.stop()


@pytest.fixture
def plain(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox as it is on a machine without namespaces: tier B."""
    yield from weak_sandbox(open_path, monkeypatch, is_bare=False)


@pytest.fixture
def bare(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox as it is on a machine that offers no wall: tier C."""
    yield from weak_sandbox(open_path, monkeypatch, is_bare=True)


@pytest.fixture(params=["namespaces", "plain"])
def either(request: pytest.FixtureRequest) -> Sandbox:
    """The machine's own sandbox, and one without namespaces."""
    name = "plain" if request.param == "plain" else "sandbox"
    sandbox: Sandbox = request.getfixturevalue(name)
    return sandbox


@pytest.fixture(params=["namespaces", "bare"])
def with_processes(request: pytest.FixtureRequest) -> Sandbox:
    """Sandboxes in which an agent starts processes: one that lets it, one that cannot forbid it."""
    sandbox: Sandbox = request.getfixturevalue("bare" if request.param == "bare" else "sandbox")
    return replace(sandbox, allows_processes=request.param == "namespaces")


RunAgent = Callable[..., Outcome]
