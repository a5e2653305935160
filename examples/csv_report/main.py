"""The entrypoint: groups the rows of a CSV and reports on one numeric column."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from filters import Rows, kept_rows
from table import Table, as_number, check_column, is_missing, read_table

# Files shipped with the agent are found from the module's own path: the working folder is an
# empty scratch folder. Source and licence of the data: data/SOURCE.md.
PENGUINS = Path(__file__).parent / "data" / "penguins.csv"

STATISTICS = ("count", "mean", "median", "min", "max")
MAX_GROUPS = 200
DECIMALS = 2


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """Report on the column payload["measure"], grouped by the column payload["group_by"].

    The table is payload["csv"], a CSV as text, or else the Palmer penguins. payload["filters"]
    says which rows to keep (see `filters.kept_rows`). Rows without a measurement are left out and
    counted as "missing". Raises ValueError for a payload that cannot be answered.
    """
    table = _chosen_table(payload)
    group_by = check_column(table, payload.get("group_by"), "group_by")
    measure = check_column(table, payload.get("measure"), "measure")
    rows = kept_rows(table, payload.get("filters", {}))

    measured = tuple(row for row in rows if not is_missing(row[measure]))
    groups = _groups(measured, group_by, measure)
    print(f"{len(measured)} of {len(table.rows)} rows in {len(groups)} groups")
    return {
        "group_by": group_by,
        "measure": measure,
        "rows": len(rows),
        "missing": len(rows) - len(measured),
        "groups": groups,
        "markdown": _markdown(group_by, groups),
    }


def _chosen_table(payload: dict[str, Any]) -> Table:
    if "csv" not in payload:
        return read_table(PENGUINS.read_text(encoding="utf-8"))
    if not isinstance(payload["csv"], str):
        raise ValueError('"csv" must be a CSV as text, with the columns\' names in its first line')
    return read_table(payload["csv"])


def _groups(rows: Rows, group_by: str, measure: str) -> list[dict[str, Any]]:
    """Return one dict of statistics for each value of the group column, sorted by it."""
    measurements: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        measurements[row[group_by]].append(_measurement(row[measure], measure))
    if len(measurements) > MAX_GROUPS:
        raise ValueError(f'"{group_by}" makes {len(measurements)} groups; the most is {MAX_GROUPS}')
    return [{"group": name, **_statistics(measurements[name])} for name in sorted(measurements)]


def _measurement(value: str, measure: str) -> float:
    number = as_number(value)
    if number is None:
        raise ValueError(f'"measure" must be a column of numbers; "{measure}" has {value!r}')
    return number


def _statistics(numbers: list[float]) -> dict[str, Any]:
    return {
        "count": len(numbers),
        "mean": round(fmean(numbers), DECIMALS),
        "median": round(median(numbers), DECIMALS),
        "min": min(numbers),
        "max": max(numbers),
    }


def _markdown(group_by: str, groups: list[dict[str, Any]]) -> str:
    """Return the groups as a Markdown table, numbers right-aligned."""
    lines = [
        _markdown_row([group_by, *STATISTICS]),
        _markdown_row(["---", *["---:"] * len(STATISTICS)]),
        *(
            _markdown_row([group["group"], *(f"{group[name]:.15g}" for name in STATISTICS)])
            for group in groups
        ),
    ]
    return "\n".join(lines)


def _markdown_row(cells: list[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
