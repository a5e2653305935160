"""The arithmetic: percentiles, turns taken side by side, what a run of the bench has found."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Turn:
    """What one contender did between the others' turns: a time for each call, and for all."""

    latencies: tuple[float, ...]
    seconds: float
    warm: int = 0  # how many of the calls were answered as warm


@dataclass(frozen=True)
class Cell:
    """One contender with one agent and so many clients."""

    contender: str
    agent: str
    clients: int
    p50_ms: float
    p99_ms: float
    per_second: float
    calls: int
    warm_share: float = 0.0


@dataclass(frozen=True)
class Figure:
    """One number that belongs to no contender."""

    name: str
    value: float
    unit: str


@dataclass
class Findings:
    """All that a run has found, and what it left out with the reason."""

    machine: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def cell(self, contender: str, agent: str, clients: int) -> Cell | None:
        """Return a cell, or None where it was not measured."""
        wanted = (contender, agent, clients)
        found = (one for one in self.cells if (one.contender, one.agent, one.clients) == wanted)
        return next(found, None)

    def figure(self, name: str) -> float | None:
        """Return a figure's value, or None where it was not measured."""
        return next((one.value for one in self.figures if one.name == name), None)

    def add(self, name: str, value: float, unit: str) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, value, unit))

    def leave_out(self, what: str, why: object) -> None:
        """Note what is not measured; the reason is one line."""
        self.left_out.append(f"{what}: {' '.join(str(why).split())}")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Findings":
        """Read what `to_json` returned."""
        return cls(
            machine=dict(value["machine"]),
            cells=[Cell(**one) for one in value["cells"]],
            figures=[Figure(**one) for one in value["figures"]],
            left_out=list(value["left_out"]),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(above: float | None, below: float | None) -> float | None:
    """Divide; None where either was not measured or nothing can be divided by."""
    return None if above is None or not below else above / below


def summarize(contender: str, agent: str, clients: int, turns: Sequence[Turn]) -> Cell:
    """Return the cell of all of a contender's turns."""
    latencies = [one for turn in turns for one in turn.latencies]
    return Cell(
        contender,
        agent,
        clients,
        p50_ms=statistics.median(latencies) * 1000,
        p99_ms=percentile(latencies, 0.99) * 1000,
        per_second=len(latencies) / sum(turn.seconds for turn in turns),
        calls=len(latencies),
        warm_share=sum(turn.warm for turn in turns) / len(latencies),
    )


def take_turns(
    takers: Mapping[str, Callable[[], Turn]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[Turn]]:
    """Let each take a turn, round after round, every second round backwards; so noise hits all.

    The first rounds warm up and are thrown away.
    """
    taken: dict[str, list[Turn]] = {name: [] for name in takers}
    for number in range(warm_up + rounds):
        for name in in_turn(takers, number):
            turn = takers[name]()
            if number >= warm_up:
                taken[name].append(turn)
    return taken


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """Return names in the order of one round: every second one goes backwards."""
    return list(names) if number % 2 == 0 else list(names)[::-1]


def medians_in_turn(
    actions: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Return the median milliseconds of each action, all of them taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        for name in in_turn(actions, number):
            started = clock()
            actions[name]()
            times[name].append((clock() - started) * 1000)
    return {name: statistics.median(each) for name, each in times.items()}
