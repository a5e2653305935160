"""What a run has found: as Markdown for the terminal, and with a chart for its page in docs."""

import os
import platform
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from anymind_lite import __version__
from bench.aims import AIMS, Aim
from bench.chart import Bar, Group, draw
from bench.executions import NO_AGENT
from bench.figures import Cell, Findings
from bench.servers import ROOT

PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"
BEGIN = "<!-- figures: written by run.py bench --write-docs -->"
END = "<!-- end of figures -->"


def describe_machine() -> dict[str, str]:
    """Return what the figures depend on."""
    one, _five, _fifteen = os.getloadavg()
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "Anymind Lite": __version__,
        "temporary files": _file_system(Path(tempfile.gettempdir())),
        "load when the run began": f"{one:.1f}",
    }


def _cpu_model() -> str:
    """Return the processor's name; not every architecture tells one."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Return what a folder stands on: a durable write costs nothing in memory."""
    lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    mounts = {line.split()[1]: line.split()[2] for line in lines}
    at = folder.resolve()
    return next((mounts[str(one)] for one in (at, *at.parents) if str(one) in mounts), "unknown")


def write_page(findings: Findings) -> None:
    """Put the figures between the page's marks, and the chart beside the page."""
    groups = chart_groups(findings)
    picture = ""
    if groups:
        note = ", ".join(findings.machine.get(name, "") for name in ("CPU", "kernel"))
        title = "One call over HTTP, 1 client, median (logarithmic scale)"
        CHART.write_text(draw(title, note, groups), encoding="utf-8")
        picture = f"![Medians of all contenders]({CHART.name})\n\n"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(between_marks(page, picture + to_markdown(findings)), encoding="utf-8")


def between_marks(page: str, text: str) -> str:
    """Return a page with another text between its marks. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for the figures")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def chart_groups(findings: Findings) -> list[Group]:
    """Return the bars: for each agent the medians at 1 client, fastest first."""
    return [
        Group(agent if agent != NO_AGENT else "bare processes", _bars(findings, agent))
        for agent in dict.fromkeys(cell.agent for cell in findings.cells)
        if _bars(findings, agent)
    ]


def _bars(findings: Findings, agent: str) -> list[Bar]:
    cells = [cell for cell in findings.cells if cell.agent == agent and cell.clients == 1]
    cells.sort(key=lambda cell: cell.p50_ms)
    return [
        Bar(cell.contender.replace("`", ""), cell.p50_ms, cell.contender.startswith("ours"))
        for cell in cells
    ]


def to_markdown(findings: Findings) -> str:
    """Return everything as tables."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in findings.machine.items())]
    parts.append(_aims_table(findings))
    by_race = dict.fromkeys((cell.agent, cell.clients) for cell in findings.cells)
    parts += [_race_table(findings, agent, clients) for agent, clients in by_race]
    if findings.figures:
        rows = [[one.name, _number(one.value, one.unit)] for one in findings.figures]
        parts.append("### Other figures\n\n" + table(["figure", "value"], rows))
    if findings.left_out:
        parts.append("### Left out\n\n" + "\n".join(f"- {line}" for line in findings.left_out))
    return "\n\n".join(parts) + "\n"


def _aims_table(findings: Findings) -> str:
    rows = []
    for aim in AIMS:
        value = aim.find(findings)
        if value is not None:
            verdict = "yes" if aim.is_met(value) else "no"
            rows.append([aim.name, _number(value, aim.unit), *_bounds(aim), verdict])
    heads = ["figure", "value", "at least", "reach for", "met"]
    return "### Against the aims\n\n" + table(heads, rows)


def _bounds(aim: Aim) -> list[str]:
    return [_number(aim.least, aim.unit), _number(aim.reach, aim.unit)]


def _race_table(findings: Findings, agent: str, clients: int) -> str:
    cells = [one for one in findings.cells if (one.agent, one.clients) == (agent, clients)]
    plural = "s" if clients > 1 else ""
    title = "Bare processes" if agent == NO_AGENT else f"{agent}, {clients} client{plural}"
    best = min(cell.p50_ms for cell in cells)
    rows = [_race_row(cell, best) for cell in cells]
    heads = ["who", "p50 ms", "p99 ms", "a second", "p50 ÷ best", "calls", "warm"]
    return f"### {title}\n\n" + table(heads, rows)


def _race_row(cell: Cell, best: float) -> list[str]:
    numbers = (cell.p50_ms, cell.p99_ms, cell.per_second, cell.p50_ms / best)
    shown = [_number(value) for value in numbers]
    warm = f"{cell.warm_share:.0%}" if cell.contender.startswith("ours") else ""
    return [cell.contender, *shown, str(cell.calls), warm]


def _number(value: float, unit: str = "") -> str:
    text = f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".strip()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned, so that it reads as plain text too."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    aligned = [_line(line, widths) for line in lines]
    rule = _line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], widths)
    return "\n".join([aligned[0], rule, *aligned[1:]])


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(texts, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
    return f"| {' | '.join(cells)} |"
