"""Suite `executions`: one call of an agent over HTTP, by ours in every way and by its peers."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench.agents import Agent, make_agent
from bench.clients import Request, take_turn
from bench.figures import Findings, Turn, summarize, take_turns
from bench.ours import has_setting, ours, ways
from bench.peers import (
    KINDS,
    Forks,
    bubblewrap,
    cache_folder,
    forks,
    functions_framework,
    naive,
)

NAIVE = "FastAPI + subprocess.run"
NAIVE_IN_BUBBLEWRAP = "FastAPI + subprocess.run + bwrap"
FUNCTIONS = "functions-framework"
NO_AGENT = "-"


class Contender(Protocol):
    """Somebody who executes agents over HTTP."""

    def request_for(self, agent: Agent) -> Request:
        """Return what executes an agent once."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    agents: Sequence[str]
    clients: Sequence[int]
    rounds: int
    seconds: float


def measure(plan: Plan, findings: Findings, say: Callable[[str], None]) -> None:
    """Start everybody, let them take turns, add a cell for each."""
    cache = cache_folder()
    say(f"installing peers and packages into {cache}, where they are missing")
    agents = [made for name in plan.agents if (made := _make(name, cache, findings))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # for a sandbox that runs as another user
        started = stack.enter_context(forks())
        contenders = _start(agents, cache, folder, stack, findings)
        _measure_processes(plan, started, findings)
        for agent in agents:
            for clients in plan.clients:
                say(f"{agent.name}, {clients} client{'s' * (clients > 1)}")
                _race(plan, contenders, agent, clients, findings)


def _make(name: str, cache: Path, findings: Findings) -> Agent | None:
    try:
        return make_agent(name, cache)
    except RuntimeError as exc:
        findings.leave_out(f"agent {name}", exc)
        return None


def _start(
    agents: Sequence[Agent], cache: Path, folder: Path, stack: ExitStack, findings: Findings
) -> dict[str, Contender]:
    """Start every contender that this machine can start, and note why the others are left out."""
    starts: dict[str, Callable[[], AbstractContextManager[Contender]]] = {
        NAIVE: lambda: naive(agents, cache),
        NAIVE_IN_BUBBLEWRAP: lambda: naive(agents, cache, wrapper=bubblewrap()),
        FUNCTIONS: lambda: functions_framework(agents, cache),
    }
    for number, way in enumerate(ways()):
        starts[way.name] = partial(ours, way, agents, folder / str(number))
    no_templates = "this version of the server has none"
    if has_setting("WARM_MEMORY_MB"):
        no_templates = "templates stand in namespaces only"
    findings.leave_out("ours, warm, tier B", no_templates)
    contenders = {}
    for name, start in starts.items():
        try:
            contenders[name] = stack.enter_context(start())
        except RuntimeError as exc:
            findings.leave_out(name, exc)
    return contenders


def _measure_processes(plan: Plan, started: Forks, findings: Findings) -> None:
    takers = {kind: partial(started.take_turn, kind, plan.seconds) for kind in KINDS}
    for kind, turns in take_turns(takers, rounds=plan.rounds).items():
        findings.cells.append(summarize(KINDS[kind], NO_AGENT, 1, turns))


def _race(
    plan: Plan,
    contenders: Mapping[str, Contender],
    agent: Agent,
    clients: int,
    findings: Findings,
) -> None:
    """Let all contenders execute one agent in turn; who fails is left out of this race."""
    failed: dict[str, Exception] = {}
    takers = {
        name: partial(_try_turn, name, one.request_for(agent), clients, plan.seconds, failed)
        for name, one in contenders.items()
    }
    for name, turns in take_turns(takers, rounds=plan.rounds).items():
        if name in failed:
            what = f"{name}, {agent.name}, {clients} client{'s' * (clients > 1)}"
            findings.leave_out(what, failed[name])
        else:
            findings.cells.append(summarize(name, agent.name, clients, turns))


def _try_turn(
    name: str, request: Request, clients: int, seconds: float, failed: dict[str, Exception]
) -> Turn:
    """Take a turn, unless this one has failed in an earlier one."""
    if name not in failed:
        try:
            return take_turn(request, clients=clients, seconds=seconds)
        except (RuntimeError, OSError) as exc:
            failed[name] = exc
    return Turn((), 0.0)
