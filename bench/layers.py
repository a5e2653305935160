"""Compares an execution over HTTP with all layers and with none, and weighs the processes.

    .venv/bin/python -m bench.layers [--rounds N] [--runs N]

Two servers stand side by side: one as it is on this machine, one whose children apply no layer at
all and have no namespaces; that one is made by replacing the stub, as the product has no such
switch. Round after round each executes examples/hello once. Then, as root alone may look into them,
the memory (PSS, proc(5)) of the zygote and of runs that sleep side by side. Absolute times say
little on a shared machine; the ratio is the figure, and at most 2 is the aim. The aim for the
zygote with eight runs is 64 MiB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.clients import Request, take_turn
from bench.figures import ratio, summarize, take_turns
from bench.memory import pss_mib
from bench.ours import heat_settings
from bench.servers import (
    ROOT,
    RUN_PY,
    Client,
    bare_program,
    deploy_agent,
    serving,
)
from tests.processes import children, descendants, pids_with_argument
from tests.waiting import wait_for

HELLO = ROOT / "examples" / "hello"
SLEEP_SECONDS = 6
WARM_UP_ROUNDS = 20
SETTLE_SECONDS = 2  # what a run does before it sleeps


@dataclass
class Server:
    """A running server, with a client of its own."""

    process: "subprocess.Popen[str]"
    url: str
    client: Client

    @property
    def sandbox(self) -> set[int]:
        """The stub, the zygote and the runs."""
        (stub,) = children(self.process.pid) & pids_with_argument("stub.py ")
        return {stub, *descendants(stub)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--runs", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            serve(folder / "layers", RUN_PY, arguments.runs) as layers,
            serve(folder / "bare", bare_program(folder), arguments.runs) as bare,
        ):
            check_ground(layers, bare)
            compare(arguments.rounds, layers, bare)
            for what, server in (("layers", layers), ("bare", bare)):
                weigh(what, server, arguments.runs, folder / "sleeper")


@contextmanager
def serve(data: Path, program: Sequence[str], runs: int) -> Iterator[Server]:
    """Run a server that may run so many executions at once, whatever its walls."""
    settings = {"MIN_TIER": "C", "WORKER_CONCURRENCY": str(runs), **heat_settings("cold")}
    with serving(data, program=program, **settings) as (process, client, url):
        yield Server(process, url, client)


def check_ground(layers: Server, bare: Server) -> None:
    """Make sure that the one has what the other has not: a zygote below its stub."""
    if len(bare.sandbox) != 1:
        sys.exit("bench: the server without layers has namespaces")
    if len(layers.sandbox) != 2:
        print("This machine has no namespaces: what is measured are the layers that are left.")


def compare(rounds: int, layers: Server, bare: Server) -> None:
    """Time executions of hello on both, in turn, and print the medians and their ratio."""
    takers = {
        name: partial(take_turn, hello_request(server), clients=1, seconds=0)
        for name, server in (("layers", layers), ("bare", bare))
    }
    turns = take_turns(takers, rounds=rounds, warm_up=WARM_UP_ROUNDS)
    cells = [summarize(name, "hello", 1, each) for name, each in turns.items()]
    for cell in cells:
        print(f"{cell.contender:10} median {cell.p50_ms:7.2f} ms   p99 {cell.p99_ms:7.2f} ms")
    print(f"layers / bare: {ratio(cells[0].p50_ms, cells[1].p50_ms):.2f}")


def hello_request(server: Server) -> Request:
    """Deploy examples/hello; return what executes it once."""
    agent_id = deploy_agent(server.client, HELLO)
    return Request.post(
        f"{server.url}/api/v1/runtime/{agent_id}/execute",
        b'{"payload": {"input": "Ada"}}',
        expected=b'"completed"',
        headers={"X-API-Key": server.client.headers["X-API-Key"]},
    )


def weigh(what: str, server: Server, runs: int, folder: Path) -> None:
    """Print the memory of the zygote alone, and with runs that sleep."""
    idle = server.sandbox
    (zygote,) = (pid for pid in idle if not descendants(pid))
    try:
        alone = pss_mib({zygote})
    except PermissionError:
        print("PSS can be read by root alone")
        return
    agent_id = deploy_agent(server.client, write_sleeper(folder))
    threads = [start_execution(server, agent_id) for _ in range(runs)]
    wait_for(lambda: len(server.sandbox - idle) >= runs, "the runs to start")
    time.sleep(SETTLE_SECONDS)
    children = server.sandbox - idle
    with_runs, all_of_it = pss_mib({zygote, *children}), pss_mib(server.sandbox)
    for thread in threads:
        thread.join()
    print(
        f"{what:10} zygote {alone:.1f} MiB, with {runs} runs ({len(children)} processes) "
        f"{with_runs:.1f} MiB, with the stub {all_of_it:.1f} MiB"
    )


def write_sleeper(folder: Path) -> Path:
    """Write an agent that sleeps; return its folder."""
    folder.mkdir(exist_ok=True)
    manifest = "name: sleeper\nentrypoint: main:handle\n"
    (folder / "anymind.yaml").write_text(manifest, encoding="utf-8")
    source = f"import time\n\ndef handle(payload):\n    time.sleep({SLEEP_SECONDS})\n"
    (folder / "main.py").write_text(source, encoding="utf-8")
    return folder


def start_execution(server: Server, agent_id: int) -> threading.Thread:
    """Execute an agent on a connection of its own, in a thread."""
    client = Client(server.url)
    client.headers = server.client.headers
    body = json.dumps({"payload": {}}).encode()
    path = f"/runtime/{agent_id}/execute"
    thread = threading.Thread(target=client.call, args=("POST", path, body))
    thread.start()
    return thread


if __name__ == "__main__":
    main()
