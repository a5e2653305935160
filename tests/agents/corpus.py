"""The cases of the corpus: what stands in `tests/agents/<category>/<name>/`.

`case.toml` says what the code tries and how it must end; `agent/` is the project that is uploaded,
or `archive.py` makes the archive. What a case may say is in `Case`; README.md beside this file
tells how to write one.
"""

import runpy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tests.live_server import pack

FOLDER = Path(__file__).parent
CATEGORIES = (
    "escape",
    "neighbours",
    "network",
    "leakage",
    "exhaustion",
    "forgery",
    "build",
    "archives",
    "templates",
)
_ENDS_BY_TIME = {"timeout", "cpu_limit"}
_ENDS = ("upload", "build", "execution")


@dataclass(frozen=True)
class Case:
    """One hostile project and its truthful end.

    `attack` is one sentence: what is tried, and why a user should care. The case `ends` at the
    upload (`status` is the HTTP status as text), at the build (`status` is the version's) or at the
    execution (the execution's). `message` is searched for in what the user is told: the answer's
    detail, the build log, the error message. An execution that completes returns what it `achieved`
    and what it `tried`, or exactly `result`. `needs` names what a case cannot be stated without:
    "namespaces", "subprocess", "x86_64". `runs` executes so many times, each told which by
    `payload["run"]`. It `may_fail` with these codes as well, where that is a matter of time. What
    `ends_templates` may go on without one. `not_promised` names what may be achieved, as
    SECURITY.md does not promise to hide it. `in_tier_b` overrides fields where tier B truthfully
    ends in another way, `in_warm` where versions are imported ahead. Python files beside
    the cases of a category belong to each of them.
    """

    folder: Path
    attack: str
    ends: str = "execution"
    status: str = "completed"
    error_code: tuple[str, ...] = ()
    message: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    needs: tuple[str, ...] = ()
    runs: int = 1
    may_fail: tuple[str, ...] = ()
    may_replace_zygote: bool = False
    ends_templates: bool = False
    not_promised: tuple[str, ...] = ()
    in_tier_b: Mapping[str, Any] = field(default_factory=dict)
    in_warm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Category and name, as in `escape/read-secret-key`."""
        return str(self.folder.relative_to(FOLDER))

    def in_mode(self, mode: str) -> "Case":
        """Return the case as it ends in a mode of the rig."""
        overrides = {"tier-b": self.in_tier_b, "tier-a-warm": self.in_warm}
        return replace(self, **_typed(overrides.get(mode, {})))

    def archive(self) -> bytes:
        """Return what is uploaded."""
        maker = self.folder / "archive.py"
        if maker.exists():
            made: bytes = runpy.run_path(str(maker))["build"]()
            return made
        agent = self.folder / "agent"
        paths = sorted(path for path in agent.rglob("*") if path.is_file())
        files = {path.name: path.read_bytes() for path in self.folder.parent.glob("*.py")}
        files |= {str(path.relative_to(agent)): path.read_bytes() for path in paths}
        files.setdefault("anymind.yaml", self._manifest().encode())
        return pack(files)

    @property
    def may_start_processes(self) -> bool:
        """Whether its manifest asks for that."""
        own = self.folder / "agent" / "anymind.yaml"
        return "subprocess: true" in (own.read_text("utf-8") if own.exists() else self._manifest())

    def _manifest(self) -> str:
        subprocess = "subprocess: true\n" if "subprocess" in self.needs else ""
        # The rig's few seconds are for those that end by them; others may find a busy machine.
        patience = "" if _ENDS_BY_TIME & {*self.error_code} else "limits: {timeout_seconds: 30}\n"
        return f"name: {self.folder.name}\nentrypoint: main:handle\n{subprocess}{patience}"


def _typed(table: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(table) - {one.name for one in fields(Case)}
    if unknown:
        raise ValueError(f"unknown fields: {sorted(unknown)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def read_case(folder: Path) -> Case:
    """Read one case. Raises ValueError for what no case may say."""
    table = tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))
    case = Case(folder, **_typed(table))
    if case.ends not in _ENDS:
        raise ValueError(f"{case.name}: ends is one of {_ENDS}")
    return case


def read_corpus() -> list[Case]:
    """Return every case, sorted by name."""
    return [read_case(path.parent) for path in sorted(FOLDER.glob("*/*/case.toml"))]
