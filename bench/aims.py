"""The figures that are held against an aim; each is a ratio or a size, never a bare time."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import builds, executions, memory, sizes, starts, writers
from bench.figures import Findings, ratio
from bench.peers import KINDS

_SAME_SHARE = 0.05
_TRUE = KINDS["true"]


@dataclass(frozen=True)
class Aim:
    """One figure: how it is found, what it must reach, what it should."""

    name: str
    find: Callable[[Findings], float | None]
    least: float
    reach: float
    unit: str = "x"

    def is_met(self, value: float) -> bool:
        """Tell whether a value reaches the least; what to reach for tells which way is better."""
        return value >= self.least if self.reach > self.least else value <= self.least


def _best(findings: Findings) -> str:
    """Return the contender that the aims are about: warm where there are templates."""
    names = {cell.contender for cell in findings.cells}
    return next((one for one in ("ours, warm, tier A",) if one in names), "ours, cold, tier A")


def _p50(findings: Findings, contender: str, agent: str, clients: int = 1) -> float | None:
    cell = findings.cell(contender, agent, clients)
    return None if cell is None else cell.p50_ms


def _per_second(findings: Findings, contender: str, clients: int) -> float | None:
    cell = findings.cell(contender, "hello", clients)
    return None if cell is None else cell.per_second


def _against_true(findings: Findings) -> float | None:
    return ratio(
        _p50(findings, _best(findings), "hello"), _p50(findings, _TRUE, executions.NO_AGENT)
    )


def _against_naive(agent: str) -> Callable[[Findings], float | None]:
    def find(findings: Findings) -> float | None:
        naive = _p50(findings, executions.NAIVE, agent)
        return ratio(naive, _p50(findings, _best(findings), agent))

    return find


def _pace(findings: Findings) -> float | None:
    naive = _per_second(findings, executions.NAIVE, 4)
    return ratio(_per_second(findings, _best(findings), 4), naive)


def _layers(findings: Findings) -> float | None:
    best = _best(findings)
    walled = findings.cell(best, "hello", 1)
    bare = findings.cell(best.replace("tier A", "no layers"), "hello", 1)
    if walled is None or bare is None or abs(walled.warm_share - bare.warm_share) > _SAME_SHARE:
        return None  # A warm run beside a cold one says nothing of layers.
    return ratio(walled.p50_ms, bare.p50_ms)


def _spread(findings: Findings) -> float | None:
    cell = findings.cell(_best(findings), "hello", 1)
    return None if cell is None else ratio(cell.p99_ms, cell.p50_ms)


def _growth(findings: Findings) -> float | None:
    names = [sizes.growth_name(request, sizes.EXECUTIONS) for request in sizes.HELD]
    found = [value for name in names if (value := findings.figure(name)) is not None]
    return max(found, default=None)


def _figure(name: str) -> Callable[[Findings], float | None]:
    return lambda findings: findings.figure(name)


def _start(findings: Findings) -> float | None:
    return ratio(findings.figure(starts.START), findings.figure(starts.PYTHON))


AIMS = (
    Aim("execute hello, 1 client, p50 ÷ fork and exec of /bin/true", _against_true, 3, 2),
    Aim("FastAPI + subprocess.run ÷ ours, p50, hello", _against_naive("hello"), 8, 14),
    Aim("the same, numpy", _against_naive("numpy"), 40, 64),
    Aim("the same, openai", _against_naive("openai"), 120, 216),
    Aim("requests a second at 4 clients, ours ÷ the same", _pace, 5, 10),
    Aim("p50 with all layers ÷ with none", _layers, 1.5, 1.2),
    Aim("p99 ÷ p50, 1 client", _spread, 3, 2),
    Aim("get an agent, list, logs: most ÷ fewest executions, the worst", _growth, 1.2, 1.0),
    Aim(
        "get an agent: most ÷ fewest API keys",
        _figure(sizes.growth_name("get an agent", sizes.KEYS)),
        1.05,
        1.0,
    ),
    Aim(memory.IDLE, _figure(memory.IDLE), 45, 36, "MB"),
    Aim(
        "PSS of a further warm version, hello",
        _figure(memory.further_name("hello")),
        3,
        1.6,
        "MB",
    ),
    Aim("server start to the first 200 ÷ `python -c pass`", _start, 25, 15),
    Aim(builds.WAIT, _figure(builds.WAIT), 5, 1, "ms"),
    Aim(builds.EXECUTABLE, _figure(builds.EXECUTABLE), 80, 50, "ms"),
    Aim(writers.LONGEST, _figure(writers.LONGEST), 50, 15, "ms"),
    Aim(writers.ERRORS, _figure(writers.ERRORS), 0, 0, ""),
)
