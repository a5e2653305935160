"""A real supervisor with a real zygote, and agents written on the spot."""

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import supervisor as supervisor_module
from anymind_lite.sandbox.in_server.outcome import Outcome
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode


@dataclass
class Sandbox:
    """Runs source code as an agent."""

    supervisor: Supervisor
    folder: Path
    scratch: Path
    limits: Limits = field(default_factory=Limits)
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
        **limits: Any,
    ) -> Outcome:
        """Write `main.py` and run it; keyword arguments are limits."""
        self.runs += 1
        code = self.folder / str(self.runs)
        for name, text in {"main.py": source, **(files or {})}.items():
            path = code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        job = Job(mode, replace(self.limits, **limits), str(code), entrypoint)
        return self.supervisor.run(job, json.dumps(payload).encode(), key=key or f"run-{self.runs}")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    scratch = tmp_path / "scratch"
    supervisor = Supervisor(scratch, tmp_path / "code")
    supervisor.start()
    yield Sandbox(supervisor, tmp_path / "code", scratch)
    supervisor.stop()


# The stub of a machine that refuses namespaces.
PLAIN_STUB = """
import sys
sys.path.insert(0, {root!r})
from anymind_lite.sandbox.in_zygote import stub

def refuse():
    raise stub.Refused("refused by a test")

stub.probe = refuse
stub.main()
"""
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox as it is on a machine without namespaces."""
    stub = tmp_path / "stub.py"
    stub.write_text(PLAIN_STUB.format(root=str(ROOT)), encoding="utf-8")
    monkeypatch.setattr(supervisor_module, "_STUB_PATH", stub)
    supervisor = Supervisor(tmp_path / "plain-scratch", tmp_path / "plain-code")
    supervisor.start()
    assert not supervisor.ground.has_namespaces
    yield Sandbox(supervisor, tmp_path / "plain-code", tmp_path / "plain-scratch")
    supervisor.stop()


@pytest.fixture(params=["namespaces", "plain"])
def either(request: pytest.FixtureRequest) -> Sandbox:
    """The machine's own sandbox, and one without namespaces."""
    name = "plain" if request.param == "plain" else "sandbox"
    sandbox: Sandbox = request.getfixturevalue(name)
    return sandbox


RunAgent = Callable[..., Outcome]
