"""Compares a run in namespaces with the same run without, side by side, and prices each namespace.

    .venv/bin/python -m bench.namespaces [--rounds N]

Two supervisors stand side by side: one as it is, one in a process whose user namespace allows no
further one, which is what a machine without namespaces looks like. Round after round each runs a
trivial agent once. Then a fork that makes one namespace is compared with a bare fork in the same
way. Absolute times say little on a shared machine; the ratio and the difference are the figures.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode

WARM_UP_ROUNDS = 20
KINDS = {
    "mount": linux.CLONE_NEWNS,
    "ipc": linux.CLONE_NEWIPC,
    "user": linux.CLONE_NEWUSER,
    "pid": linux.CLONE_NEWPID,
    "net, of which a run makes none": linux.CLONE_NEWNET,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    compare_runs(rounds)
    price_namespaces(rounds)


def compare_runs(rounds: int) -> None:
    """Time a trivial agent without namespaces, with an init, and with a single fork."""
    context = get_context("spawn")
    measures: dict[str, Callable[[], float]] = {}
    processes = []
    for name, has_namespaces, allows_processes in (
        ("without namespaces", False, False),
        ("namespaces and an init", True, True),
        ("namespaces, one fork", True, False),
    ):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, has_namespaces, allows_processes))
        process.start()
        processes.append((process, ours))
        measures[name] = lambda ours=ours: ask(ours)  # type: ignore[misc]
    report(take_turns(measures, rounds))
    for process, ours in processes:
        ours.send("end")
        process.join()


def ask(connection: Connection) -> float:
    """Have one run done; return its seconds."""
    connection.send("run")
    seconds: float = connection.recv()
    return seconds


def serve(connection: Connection, has_namespaces: bool, allows_processes: bool) -> None:
    """Run the agent as often as asked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not has_namespaces:
            forbid_namespaces()
        supervisor = Supervisor(folder / "scratch", folder / "code")
        supervisor.start()
        if supervisor.ground.has_namespaces != has_namespaces:
            sys.exit(f"bench: not the ground to measure on: {supervisor.ground}")
        agent = folder / "code" / "one"
        agent.mkdir()
        (agent / "main.py").write_text("def handle(payload): return payload\n")
        job = Job(Mode.EXECUTE, Limits(), str(agent), "main:handle", allows_processes)
        while connection.recv() == "run":
            started_at = time.perf_counter()
            supervisor.run(job, key="bench")
            connection.send(time.perf_counter() - started_at)
        supervisor.stop()


def forbid_namespaces() -> None:
    """Enter a user namespace that allows no further one."""
    enter_user_namespace()
    Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")


def enter_user_namespace() -> None:
    """Become an ordinary user in a user namespace: root would be asked to become another one."""
    ids = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC)
    linux.give_up_setgroups(proc_fd)
    linux.write_id_maps(proc_fd, 1000, 1000, ids=ids)


def price_namespaces(rounds: int) -> None:
    """Time a fork that makes one namespace, made and ended, beside a bare fork."""
    pid = os.fork()
    if pid == 0:
        enter_user_namespace()
        measures: dict[str, Callable[[], float]] = {"fork": lambda: fork_and_unshare(0)}
        for name, flags in KINDS.items():
            measures[f"fork, {name}"] = lambda flags=flags: fork_and_unshare(flags)  # type: ignore[misc]
        report(take_turns(measures, rounds))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)


def fork_and_unshare(flags: int) -> float:
    """Fork, unshare, exit, wait; return the seconds."""
    started_at = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        if flags:
            linux.unshare(flags)
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - started_at


def take_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each, taken in turn so that all see the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, measure in measures.items():
            seconds = measure()
            if number >= WARM_UP_ROUNDS:
                taken[name].append(seconds * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(medians: dict[str, float]) -> None:
    """Print each median beside the first."""
    base = next(iter(medians.values()))
    for name, value in medians.items():
        print(f"{name:36} {value:6.2f} ms   {value - base:+6.2f} ms   x {value / base:.2f}")


if __name__ == "__main__":
    main()
