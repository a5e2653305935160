"""Suite `sizes`: requests beside many executions and many API keys, against the same beside few.

Servers with each size stand side by side and are asked in turn.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.figures import Findings, medians_in_turn, ratio
from bench.servers import Client, start_server, stop_server
from tests.many_rows import fill

REQUESTS = {
    "get an agent": "/agents/3",
    "list executions": "/runtime/executions?limit=20",
    "list those of an agent": "/runtime/executions?agent_id=3&limit=20",
    "list failed ones": "/runtime/executions?status=failed&limit=20",
    "get an execution": "/runtime/executions/500",
    "logs of an agent": "/logs/3?limit=20",
}
HELD = ("get an agent", "list executions", "logs of an agent")  # what the aim names
EXECUTIONS = "executions"
KEYS = "API keys"


def measure(
    executions: Sequence[int],
    keys: Sequence[int],
    rounds: int,
    findings: Findings,
    say: Callable[[str], None],
) -> None:
    """Ask servers of all sizes; add a figure for each request and for each growth."""
    for of, sizes, requests in (
        (EXECUTIONS, executions, REQUESTS),
        (KEYS, keys, {"get an agent": REQUESTS["get an agent"]}),
    ):
        say(f"making databases of {', '.join(f'{size:,}' for size in sizes)} {of}")
        medians = ask_in_turn(of, sizes, requests, rounds)
        for (request, size), milliseconds in medians.items():
            findings.add(f"{request}, {size:,} {of}", milliseconds, "ms")
        for request in requests:
            grown = ratio(medians[request, sizes[-1]], medians[request, sizes[0]])
            if grown is not None:
                findings.add(growth_name(request, of), grown, "x")


def growth_name(request: str, of: str) -> str:
    """Return the name of the figure that says how a request grows from few to many."""
    return f"{request}: most ÷ fewest {of}"


def ask_in_turn(
    of: str, sizes: Sequence[int], requests: Mapping[str, str], rounds: int
) -> dict[tuple[str, int], float]:
    """Return the median milliseconds of each request at each size."""
    with ExitStack() as stack:
        clients = {size: stack.enter_context(_serving(of, size)) for size in sizes}
        actions = {
            f"{name} {size}": partial(client.call, "GET", path)
            for name, path in requests.items()
            for size, client in clients.items()
        }
        for action in actions.values():
            action()
        found = medians_in_turn(actions, rounds=rounds, clock=time.perf_counter)
    return {(name, size): found[f"{name} {size}"] for name in requests for size in sizes}


@contextmanager
def _serving(of: str, size: int) -> Iterator[Client]:
    with tempfile.TemporaryDirectory() as data:
        path = Path(data) / "anymind.sqlite3"
        few = 1000
        key = fill(path, executions=few, keys=size) if of == KEYS else fill(path, executions=size)
        server, url = start_server(data)
        try:
            client = Client(url)
            client.headers["X-API-Key"] = key
            yield client
            client.close()
        finally:
            stop_server(server)
