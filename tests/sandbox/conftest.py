"""A real supervisor with a real zygote, and agents written on the spot."""

import itertools
import json
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import supervisor as supervisor_module
from anymind_lite.sandbox.in_server.outcome import Outcome
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits, Tier
from anymind_lite.sandbox.protocol import Job, Mode
from tests.processes import descendants, is_running
from tests.sandbox.layers.children import missing
from tests.waiting import wait_for


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
        job = Job(
            mode,
            replace(self.limits, **limits),
            self.write(source, files),
            entrypoint,
            self.allows_processes if allows_processes is None else allows_processes,
        )
        return self.supervisor.run(
            job,
            json.dumps(payload).encode(),
            key=key or f"run-{self.runs}",
            is_wanted=is_wanted,
        )

    def write(self, source: str, files: dict[str, str] | None = None) -> str:
        """Write an agent and return its folder."""
        self.runs += 1
        code = self.folder / str(self.runs)
        for name, text in {"main.py": source, **(files or {})}.items():
            path = code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        code.chmod(0o755)  # a root server's agents are another user
        return str(code)


class Kept:
    """One sandbox for all tests of a module; a new one after a test that left it in doubt.

    A run leaves nothing to the next one, as each is a process of its own: a zygote for each test
    would show no more, and take most of the time.
    """

    def __init__(
        self, folder: Path, stub: Path, least: Tier, *, warm_memory_bytes: int = 0
    ) -> None:
        self._folder = folder
        self._warm_memory_bytes = warm_memory_bytes
        self._stub = stub
        self._least = least
        self._numbers = itertools.count(1)
        self._lent: Sandbox | None = None

    def get(self) -> Sandbox:
        """Return the sandbox, as new."""
        if self._lent is None:
            place = self._folder / str(next(self._numbers))
            place.mkdir(mode=0o711)
            code, scratch = place / "code", place / "scratch"
            supervisor = Supervisor(
                scratch, code, min_tier=self._least, warm_memory_bytes=self._warm_memory_bytes
            )
            self._lent = Sandbox(supervisor, code, scratch)
            self._lent.supervisor.start()
        return self._lent

    @contextmanager
    def lend(self) -> Iterator[Sandbox]:
        """Give it to one test; its zygotes, the first and those that follow, come of its stub."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor_module, "_STUB_PATH", self._stub)
            sandbox = self.get()
            zygote = sandbox.supervisor.zygote_pid
            yield replace(sandbox)
            self._drop_templates(sandbox, zygote)
            if self._is_as_new(sandbox, zygote):
                for code in sandbox.folder.iterdir():
                    shutil.rmtree(code)
            else:
                self.stop()

    def _drop_templates(self, sandbox: Sandbox, zygote: int | None) -> None:
        """End all templates: nothing of them may be left."""
        if self._warm_memory_bytes and zygote is not None:
            sandbox.supervisor.templates.drop_all("")
            wait_for(lambda: not descendants(zygote), "the templates to be gone")

    def _is_as_new(self, sandbox: Sandbox, zygote: int | None) -> bool:
        one = sandbox.supervisor
        return (
            zygote is not None
            and (one.is_serving, one.zygote_pid, one.min_tier) == (True, zygote, self._least)
            and is_running(zygote)
            and not (one._conversations or descendants(zygote))
            and not any(sandbox.scratch.iterdir())
        )

    def stop(self) -> None:
        """Stop it; the next test gets another."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.supervisor.stop()


@pytest.fixture(scope="module")
def kept_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(tmp_path_factory.mktemp("sandbox"), supervisor_module._STUB_PATH, Tier.B)
    yield kept
    kept.stop()


@pytest.fixture
def sandbox(kept_sandbox: Kept) -> Iterator[Sandbox]:
    """The machine's own sandbox."""
    with kept_sandbox.lend() as lent:
        yield lent


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


@contextmanager
def passable_folder() -> Iterator[Path]:
    """Make a folder that others may pass through, as a root server's agents are another user."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def open_path() -> Iterator[Path]:
    with passable_folder() as path:
        yield path


@contextmanager
def weak_sandbox(*, is_bare: bool) -> Iterator[Kept]:
    """Keep a sandbox of tier B or C. Skips the tests of the module where there is none."""
    least = Tier.C if is_bare else Tier.B
    with passable_folder() as path:
        stub = path / "stub.py"
        stub.write_text(WEAK_STUB.format(root=str(ROOT), is_bare=is_bare), encoding="utf-8")
        kept = Kept(path, stub, least)
        try:
            with kept.lend() as sandbox:
                ground = sandbox.supervisor.ground
            if "may not read Python" in ground.error:
                pytest.skip("this Python's own files are closed to others")
            if ground.tier is not least:
                missing(f"tier {least}: {ground}")
            yield kept
        finally:
            kept.stop()


@pytest.fixture(scope="module")
def kept_plain() -> Iterator[Kept]:
    with weak_sandbox(is_bare=False) as kept:
        yield kept


@pytest.fixture(scope="module")
def kept_bare() -> Iterator[Kept]:
    with weak_sandbox(is_bare=True) as kept:
        yield kept


@pytest.fixture
def plain(kept_plain: Kept) -> Iterator[Sandbox]:
    """A sandbox as it is on a machine without namespaces: tier B."""
    with kept_plain.lend() as lent:
        yield lent


@pytest.fixture
def bare(kept_bare: Kept) -> Iterator[Sandbox]:
    """A sandbox as it is on a machine that offers no wall: tier C."""
    with kept_bare.lend() as lent:
        yield lent


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
