"""The filters of a payload: which rows to keep."""

import math
from collections.abc import Callable
from typing import Any

from table import Table, as_number, check_column

Rows = tuple[dict[str, str], ...]


def kept_rows(table: Table, filters: Any) -> Rows:
    """Return the rows that pass every filter. Raises ValueError for a filter nobody can apply.

    A filter is a column with the value it must have (`{"island": "Biscoe"}`), with a list of
    values (`{"island": ["Biscoe", "Dream"]}`), or with the least and the most that a number may
    be (`{"year": {"min": 2008, "max": 2009}}`, either may be left out).
    """
    if not isinstance(filters, dict):
        raise ValueError('"filters" must be an object such as {"island": "Biscoe"}')
    rows = table.rows
    for column, wanted in filters.items():
        check_column(table, column, "filters")
        passes = _filter(column, wanted)
        rows = tuple(row for row in rows if passes(row[column]))
    return rows


def _filter(column: str, wanted: Any) -> Callable[[str], bool]:
    if isinstance(wanted, dict):
        return _range_filter(column, wanted)
    values = wanted if isinstance(wanted, list) else [wanted]
    for value in values:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError(
                f'the filter of "{column}" must be a value, a list of values, or an object with'
                ' "min" or "max"'
            )
    return lambda found: any(_is_equal(found, value) for value in values)


def _range_filter(column: str, wanted: dict[str, Any]) -> Callable[[str], bool]:
    if not wanted or set(wanted) - {"min", "max"}:
        raise ValueError(f'the filter of "{column}" may have "min" and "max", nothing else')
    for name, limit in wanted.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f'"{name}" in the filter of "{column}" must be a number')

    least, most = wanted.get("min", -math.inf), wanted.get("max", math.inf)

    def passes(found: str) -> bool:
        number = as_number(found)
        return number is not None and bool(least <= number <= most)

    return passes


def _is_equal(found: str, wanted: str | float) -> bool:
    """Compare as texts, or as numbers if a number is wanted: 18 finds "18.0"."""
    return found == wanted if isinstance(wanted, str) else as_number(found) == wanted
