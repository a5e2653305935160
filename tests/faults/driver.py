"""Starts the server so that it dies, or stops, at a named point: `driver.py ORDERS serve ...`.

ORDERS is JSON: `point` is [kind, name] or null, `signal` what the server sends itself there, once
the file `armed_by` is there and has been taken away by it; `mutants` are names of `mutants.py`.
Product code stays as it is: its functions are wrapped from outside.
"""

import functools
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.faults.mutants import MUTANTS
from tests.faults.points import Point, point_named


class Watch:
    """Sends this process a signal at a point."""

    def __init__(self, point: Point, number: int, armed_by: Path) -> None:
        self._point, self._number, self._armed_by = point, number, armed_by
        self._inside = threading.local()
        self._count = 0

    def install(self) -> None:
        """Wrap the functions that the point names."""
        if self._point.within:
            _wrap(self._point.within, self._note_inside)
        _wrap(self._point.target, self._around)

    def _note_inside(self, call: Callable[[], Any]) -> Any:
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            return call()
        finally:
            self._inside.depth -= 1

    def _around(self, call: Callable[[], Any]) -> Any:
        if self._point.when == "before":
            self._pass()
        result = call()
        if self._point.when == "after":
            self._pass()
        return result

    def _pass(self) -> None:
        if self._point.within and not getattr(self._inside, "depth", 0):
            return
        if self._armed_by.exists():
            self._count += 1
            if self._count == self._point.nth:
                self._armed_by.unlink()
                os.kill(os.getpid(), self._number)


def _wrap(target: str, around: Callable[[Callable[[], Any]], Any]) -> None:
    owner, name = _find(target)
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(lambda: function(*args, **kwargs))

    setattr(owner, name, wrapped)


def _find(target: str) -> tuple[Any, str]:
    """Return what holds the last part of a dotted name. Raises AttributeError, ImportError."""
    path, _, name = target.rpartition(".")
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[length:], owner), name
    raise ModuleNotFoundError(path)


def main() -> None:
    """Follow the orders, then be the server's command line."""
    orders = json.loads(sys.argv.pop(1))
    for name in orders["mutants"]:
        MUTANTS[name]()
    if orders["point"]:
        point = point_named(*orders["point"])
        Watch(point, orders["signal"], Path(orders["armed_by"])).install()
    from anymind_lite.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
