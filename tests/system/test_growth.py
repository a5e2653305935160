"""A million executions: the server starts as fast and answers as fast as beside a thousand."""

import pytest

from bench import growth
from bench.growth import LISTS, measure_server
from tests.faults.rig import driven

pytestmark = pytest.mark.slow

# These walk over what they skip, and are measured for information.
SKIPPING = ("skip to the middle", "logs, skip")


Times = dict[str, float]


def slower_lists(few: Times, many: Times) -> dict[str, tuple[float, float]]:
    """Return the lists that take more than twice as long beside many executions."""
    return {
        name: (few[name], many[name])
        for name in LISTS
        # A millisecond besides: a busy machine takes that from either.
        if name not in SKIPPING and many[name] > 2 * few[name] + 1
    }


def test_a_million_executions_cost_what_a_thousand_do() -> None:
    few, many = measure_server(1000), measure_server(1_000_000)
    assert slower_lists(few, many) == {}
    assert many["start"] < few["start"] + 1000  # the check of the whole file alone takes longer


def test_lists_that_are_sorted_anew_each_time_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "PROGRAM", driven(mutants=["lists_by_time"]))
    monkeypatch.setattr(growth, "ROUNDS", 5)
    found = slower_lists(measure_server(1000), measure_server(50_000))
    assert {"newest 20", "failed"} <= found.keys()
