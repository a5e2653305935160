"""Anymind Lite in each way that is measured: cold and warm, in tier A, in tier B, and bare."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anymind_lite.config import SETTINGS
from bench.agents import Agent
from bench.clients import Request
from bench.peers import EXPECTED, PAYLOAD
from bench.servers import (
    KEPT_FOR_TEMPLATES,
    ROOT,
    RUN_PY,
    Client,
    bare_program,
    deploy_agent,
    serving,
)

_WARM_MEMORY_MB = "1024"  # room for every agent that is measured
_WARM_SECONDS = 15.0
TIERS = ("tier A", "tier B", "no layers")


@dataclass(frozen=True)
class Way:
    """One way to run a server: behind which walls, and whether with templates."""

    walls: str
    heat: str

    @property
    def name(self) -> str:
        """Return its name in the tables."""
        return f"ours, {self.heat}, {self.walls}"

    @property
    def settings(self) -> dict[str, str]:
        """Return what its server is told."""
        least = {"tier A": "A", "tier B": "B", "no layers": "C"}[self.walls]
        return {"MIN_TIER": least, **heat_settings(self.heat)}

    def program(self, folder: Path) -> Sequence[str]:
        """Return what starts its server."""
        if self.walls == "no layers":
            return bare_program(folder, has_templates=self.heat == "warm")
        if self.walls == "tier B":  # A machine that refuses namespaces, as Docker does.
            return (sys.executable, str(ROOT / "tests" / "outer_filter.py"), *RUN_PY)
        return RUN_PY


def has_setting(name: str) -> bool:
    """Tell whether this version of the server knows a setting."""
    return any(setting.name == name for setting in SETTINGS)


def ways() -> list[Way]:
    """Return all ways that this version of the server knows; templates stand in tier A only."""
    warm = [Way(walls, "warm") for walls in TIERS if walls != "tier B"]
    cold = [Way(walls, "cold") for walls in TIERS]
    return [*warm, *cold] if has_setting("WARM_MEMORY_MB") else cold


def heat_settings(heat: str) -> dict[str, str]:
    """Return what makes a server cold or warm; nothing where it can only be cold."""
    if not has_setting("WARM_MEMORY_MB"):
        return {}
    return {"WARM_MEMORY_MB": "0" if heat == "cold" else _WARM_MEMORY_MB}


class Ours:
    """A running server with agents."""

    def __init__(self, url: str, key: str, ids: Mapping[str, int]) -> None:
        self._url = url
        self._key = key
        self._ids = ids

    def request_for(self, agent: Agent) -> Request:
        """Return what executes an agent once."""
        url = f"{self._url}/api/v1/runtime/{self._ids[agent.name]}/execute"
        return Request.post(url, PAYLOAD, expected=EXPECTED, headers={"X-API-Key": self._key})


@contextmanager
def ours(way: Way, agents: Sequence[Agent], folder: Path) -> Iterator[Ours]:
    """Serve agents in one way. Raises RuntimeError where this machine cannot."""
    folder.mkdir()
    program = way.program(folder)
    with serving(folder / "data", program=program, **way.settings) as (_server, client, url):
        ids = {agent.name: deploy_agent(client, agent.folder) for agent in agents}
        _check_walls(client, way, next(iter(ids.values())))
        if way.heat == "warm":
            for agent_id in ids.values():
                get_warm(client, agent_id)
        yield Ours(url, client.headers["X-API-Key"], ids)


def _check_walls(client: Client, way: Way, agent_id: int) -> None:
    """Make sure that what is measured is what its name says."""
    execution = client.call("POST", f"/runtime/{agent_id}/execute", PAYLOAD)
    if execution["status"] != "completed":
        raise RuntimeError(execution["error_message"])
    is_bare = set(execution["layers"]) <= {*KEPT_FOR_TEMPLATES, "environment"}
    if way.walls != ("no layers" if is_bare else f"tier {execution['tier']}"):
        found = json.dumps({name: execution[name] for name in ("tier", "layers")})
        raise RuntimeError(f"the server stands on other ground: {found}")


def get_warm(client: Client, agent_id: int) -> bool:
    """Execute until a run is warm; tells whether one was. Templates are made in the background."""
    deadline = time.monotonic() + _WARM_SECONDS
    while time.monotonic() < deadline:
        if client.call("POST", f"/runtime/{agent_id}/execute", PAYLOAD).get("warm"):
            return True
        time.sleep(0.02)
    return False
