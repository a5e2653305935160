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
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.execute import (
    ROOT,
    Client,
    deploy_agent,
    executor,
    measure,
    report,
    sign_up,
    start_server,
)
from tests.processes import children, descendants, pids_with_argument
from tests.waiting import wait_for

HELLO = ROOT / "examples" / "hello"
SLEEP_SECONDS = 6
SETTLE_SECONDS = 2  # what a run does before it sleeps

LAUNCHER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from anymind_lite.cli import main
from anymind_lite.sandbox.in_server import supervisor

supervisor._STUB_PATH = Path({stub!r})
main()
"""
BARE_STUB = """
import sys
sys.path.insert(0, {root!r})
from anymind_lite.sandbox.in_child import layers
layers.LAYERS = ()
from anymind_lite.sandbox.in_zygote import ground, stub

def refuse(*_):
    raise OSError(1, "refused by the measurement")

ground.LAYERS = ()
ground.probe = refuse
ground.become_sandbox_user = lambda _: None
ground.linux_landlock.why_not = ground.linux_seccomp.why_not = lambda: "refused"
stub.main()
"""


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
            serve(folder / "layers", ROOT / "run.py", arguments.runs) as layers,
            serve(folder / "bare", write_bare_launcher(folder), arguments.runs) as bare,
        ):
            check_ground(layers, bare)
            compare(arguments.rounds, layers, bare)
            for what, server in (("layers", layers), ("bare", bare)):
                weigh(what, server, arguments.runs, folder / "sleeper")


def write_bare_launcher(folder: Path) -> Path:
    """Write what starts a server without layers; return its path."""
    launcher, stub = folder / "launcher.py", folder / "stub.py"
    stub.write_text(BARE_STUB.format(root=str(ROOT)), encoding="utf-8")
    launcher.write_text(LAUNCHER.format(root=str(ROOT), stub=str(stub)), encoding="utf-8")
    return launcher


@contextmanager
def serve(data: Path, launcher: Path, runs: int) -> Iterator[Server]:
    """Run a server that may run so many executions at once, whatever its walls."""
    settings = {"MIN_TIER": "C", "WORKER_CONCURRENCY": str(runs)}
    process, url = start_server(str(data), launcher, **settings)
    try:
        client = Client(url)
        sign_up(client)
        yield Server(process, url, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def check_ground(layers: Server, bare: Server) -> None:
    """Make sure that the one has what the other has not: a zygote below its stub."""
    if len(bare.sandbox) != 1:
        sys.exit("bench: the server without layers has namespaces")
    if len(layers.sandbox) != 2:
        print("This machine has no namespaces: what is measured are the layers that are left.")


def compare(rounds: int, layers: Server, bare: Server) -> None:
    """Time executions of hello on both, in turn."""
    subjects = {
        name: executor(server.client, deploy_agent(server.client, HELLO))
        for name, server in (("layers", layers), ("bare", bare))
    }
    report(measure(rounds, subjects))


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


def pss_mib(pids: set[int]) -> float:
    """Return the memory of processes, what several share being divided among all that do."""
    return sum(map(pss_kib, pids)) / 1024


def pss_kib(pid: int) -> int:
    """Return one process's proportional set size. Raises PermissionError."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(text.split("\nPss:", 1)[1].split()[0])


if __name__ == "__main__":
    main()
