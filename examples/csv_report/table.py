"""Reads CSV text into a table, and picks columns and rows from it."""

import csv
import io
from dataclasses import dataclass
from typing import Any

# Larger numbers could add up to infinity, which JSON does not have.
MAX_NUMBER = 1e100

# How missing values are written, in lower case.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True)
class Table:
    """The columns' names, and the rows as dicts of texts."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def read_table(text: str) -> Table:
    """Return CSV text, the first line of which names the columns, as a Table.

    Raises ValueError, with the line, where the text is not a table.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        _check_columns(columns)
        rows = tuple(
            _row(columns, values, reader.line_num)
            for values in reader
            if any(map(str.strip, values))
        )
    except csv.Error as exc:
        raise ValueError(f"line {reader.line_num} of the CSV cannot be read: {exc}") from None
    return Table(columns, rows)


def check_column(table: Table, column: Any, role: str) -> str:
    """Return the column's name. Raises ValueError, naming the columns there are."""
    if column not in table.columns:
        there_is = ", ".join(table.columns)
        problem = "is missing" if column is None else f"names no column: {column!r}"
        raise ValueError(f'"{role}" {problem}; the columns are {there_is}')
    return str(column)


def is_missing(value: str) -> bool:
    """Say whether a value stands for one that is not known."""
    return value.lower() in MISSING


def as_number(value: str) -> float | None:
    """Return the value as a number, or None if it is not one."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) <= MAX_NUMBER else None  # NaN is not <= anything


def _check_columns(columns: tuple[str, ...]) -> None:
    if not any(columns):
        raise ValueError("the CSV is empty; its first line must name the columns")
    for name in columns:
        if not name or columns.count(name) > 1:
            raise ValueError(f"the first line must name each column once, {name!r} does not")


def _row(columns: tuple[str, ...], values: list[str], line: int) -> dict[str, str]:
    if len(values) != len(columns):
        raise ValueError(f"line {line} has {len(values)} values for {len(columns)} columns")
    return {name: value.strip() for name, value in zip(columns, values, strict=True)}
