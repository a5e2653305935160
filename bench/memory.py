"""Suite `memory`: what all processes of a server hold, idle and with warm versions.

Measured as PSS (proc(5), smaps_rollup): what several processes share is divided among them, so the
sum is what the machine gives. The sandbox's processes can be read by root alone.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.agents import make_agent
from bench.figures import Findings
from bench.ours import get_warm, has_setting, heat_settings
from bench.peers import cache_folder
from bench.servers import Client, deploy_agent, serving, start_server, stop_server
from tests.processes import descendants

IDLE = "idle PSS of all processes"
_SETTLE_SECONDS = 2.0  # what was begun at start is done
_FURTHER_VERSIONS = 5


def measure(agents: Sequence[str], findings: Findings, say: Callable[[str], None]) -> None:
    """Weigh an idle server, then one with more and more warm versions of each agent."""
    try:
        say("weighing an idle server")
        findings.add(IDLE, weigh_idle(), "MB")
        if not has_setting("WARM_MEMORY_MB"):
            findings.leave_out("memory of warm versions", "this version has no templates")
            return
        for name in agents:
            say(f"weighing warm versions of {name}")
            findings.add(further_name(name), weigh_further(name), "MB")
    except (PermissionError, RuntimeError) as exc:
        findings.leave_out("memory", exc)


def further_name(agent: str) -> str:
    """Return the name of the figure of one further warm version."""
    return f"PSS of a further warm version of {agent}"


def weigh_idle() -> float:
    """Return the MB of a server that has just started, with the settings as they come."""
    with tempfile.TemporaryDirectory() as data:
        server, _url = start_server(data)
        try:
            return _weigh(server.pid)
        finally:
            stop_server(server)


def weigh_further(name: str) -> float:
    """Return the MB that one more warm version of an agent takes, the first one not counted."""
    source = make_agent(name, cache_folder()).folder
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with serving(data, **heat_settings("warm")) as (server, client, _url):
            _warm(client, deploy_agent(client, source))
            first = _weigh(server.pid)
            for _ in range(_FURTHER_VERSIONS):
                _warm(client, deploy_agent(client, source))
            return (_weigh(server.pid) - first) / _FURTHER_VERSIONS


def _warm(client: Client, agent_id: int) -> None:
    if not get_warm(client, agent_id):
        raise RuntimeError("a version does not get warm")


def _weigh(pid: int) -> float:
    time.sleep(_SETTLE_SECONDS)
    return pss_mib({pid, *descendants(pid)})


def pss_mib(pids: set[int]) -> float:
    """Return the MB of processes, what several share being divided among all that do.

    Raises PermissionError where this user may not look.
    """
    return sum(map(_pss_kib, pids)) / 1024


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # It has ended since.
        return 0
    return int(text.split("\nPss:", 1)[1].split()[0])
