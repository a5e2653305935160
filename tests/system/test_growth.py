"""A million executions: the server starts as fast and answers as fast as beside a thousand."""

import pytest

from bench.growth import LISTS, measure_server

pytestmark = pytest.mark.slow

# These walk over what they skip, and are measured for information.
SKIPPING = ("skip to the middle", "logs, skip")


def test_a_million_executions_cost_what_a_thousand_do() -> None:
    few, many = measure_server(1000), measure_server(1_000_000)
    slower = {
        name: (few[name], many[name])
        for name in LISTS
        # A millisecond besides: a busy machine takes that from either.
        if name not in SKIPPING and many[name] > 2 * few[name] + 1
    }
    assert slower == {}
    assert many["start"] < few["start"] + 1000  # the check of the whole file alone takes longer
