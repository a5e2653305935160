"""Cancelling a job: at once, or with SIGTERM first and a grace."""

import os
import signal
import time
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import conversation
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from tests.processes import descendants, is_running, is_stopped
from tests.sandbox.background import Background, zygote_of
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for

# No test waits that long: an end that comes sooner is not the end of the grace.
LONG_SECONDS = 50.0
SOON_MS = 25_000
NO_HURRY: dict[str, Any] = {"wall_seconds": 60.0, "cpu_seconds": 60}

FOREVER = "def handle(payload):\n    print('ready')\n    while True: pass"
# No signal.pause(): a signal that comes just before it would be answered by no handler.
CLEANS_UP = """
    import signal, sys, time

    def handle(payload):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            print("ready")
            while True: time.sleep(0.1)
        finally:
            print("cleaned up")
"""
CLEANS_UP_IN_ASYNCIO = """
    import asyncio, signal

    async def handle(payload):
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        print("ready")
        await told.wait()
        print("cleaned up")
"""


def stubborn(line: str) -> str:
    return f"""
        import os, signal, time

        def handle(payload):
            {line}
            print("ready")
            while True: time.sleep(1000)
    """


IGNORES = stubborn("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
STUBBORN = {
    "ignores": IGNORES,
    "blocks": stubborn("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"),
    "goes on": stubborn("signal.signal(signal.SIGTERM, lambda *_: None)"),
    "hangs in its handler": stubborn("signal.signal(signal.SIGTERM, lambda *_: time.sleep(1000))"),
    "stops itself": stubborn("print('ready'); os.kill(os.getpid(), signal.SIGSTOP)"),
}


def run_in_background(
    sandbox: Sandbox, source: str, **limits: float
) -> tuple[Background, set[int]]:
    """Start an agent that prints when it is ready; return its processes too."""
    run = Background(sandbox, source, key="victim", **{**NO_HURRY, **limits})
    run.wait_for_print("ready")
    return run, descendants(zygote_of(sandbox))


def running(pids: set[int]) -> list[int]:
    return [pid for pid in pids if is_running(pid)]


def test_cancel_ends_the_process_itself(either: Sandbox) -> None:
    run, pids = run_in_background(either, FOREVER)
    assert either.supervisor.cancel("victim")
    assert running(pids) == []
    outcome = run.outcome()
    assert outcome.reason is StopReason.CANCELLED
    assert outcome.duration_ms < SOON_MS


@pytest.mark.parametrize("source", [CLEANS_UP, CLEANS_UP_IN_ASYNCIO], ids=["handler", "asyncio"])
def test_agent_may_clean_up_in_the_grace(either: Sandbox, source: str) -> None:
    run, pids = run_in_background(either, source)
    assert either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    outcome = run.outcome()
    assert (outcome.reason, outcome.logs) == (StopReason.CANCELLED, "ready\ncleaned up\n")
    assert outcome.duration_ms < SOON_MS
    assert running(pids) == []


def test_agent_without_a_handler_ends_at_once(either: Sandbox) -> None:
    run, pids = run_in_background(either, FOREVER)
    assert either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    outcome = run.outcome()
    assert outcome.reason is StopReason.CANCELLED
    assert outcome.duration_ms < SOON_MS
    assert running(pids) == []


@pytest.mark.parametrize("how", STUBBORN)
def test_grace_is_all_that_a_stubborn_agent_gets(either: Sandbox, how: str) -> None:
    run, pids = run_in_background(either, STUBBORN[how])
    if how == "stops itself":  # it prints before; a SIGTERM between the two would end it
        wait_for(lambda: any(is_stopped(pid) for pid in pids), "it to be stopped")
    asked_at = time.monotonic()
    assert either.supervisor.cancel("victim", grace_seconds=0.5)
    outcome = run.outcome()
    assert 0.5 <= time.monotonic() - asked_at < 7.0
    assert outcome.reason is StopReason.CANCELLED
    assert running(pids) == []


def test_cancel_does_not_wait_for_a_grace_and_nobody_else_does(either: Sandbox) -> None:
    run, pids = run_in_background(either, IGNORES)
    asked_at = time.monotonic()
    assert either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    assert time.monotonic() - asked_at < 2.0
    assert either.run("def handle(payload): return 1").reason is StopReason.RETURNED
    assert set(running(pids)) == pids
    assert either.supervisor.cancel("victim")
    assert run.outcome().duration_ms < SOON_MS


def test_unknown_job_has_no_grace_either(sandbox: Sandbox) -> None:
    assert not sandbox.supervisor.cancel("nobody", grace_seconds=LONG_SECONDS)


# One job, more than one end -----------------------------------------------------------------------


def test_cancel_in_a_grace_kills_at_once(either: Sandbox) -> None:
    run, pids = run_in_background(either, IGNORES)
    either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    assert either.supervisor.cancel("victim")
    assert running(pids) == []
    assert run.outcome().reason is StopReason.CANCELLED


def test_second_grace_changes_nothing(either: Sandbox) -> None:
    run, _pids = run_in_background(
        either, stubborn("signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'heard\\n'))")
    )
    for seconds in (1.0, LONG_SECONDS, LONG_SECONDS):
        assert either.supervisor.cancel("victim", grace_seconds=seconds)
    outcome = run.outcome()
    assert (outcome.reason, outcome.logs) == (StopReason.CANCELLED, "ready\nheard\n")
    assert outcome.duration_ms < SOON_MS


def test_wall_limit_holds_in_a_grace(either: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_OWN_KILL_SECONDS", LONG_SECONDS)  # the zygote's, that is
    run, pids = run_in_background(either, IGNORES, wall_seconds=3.0)
    either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    outcome = run.outcome()
    assert outcome.reason is StopReason.CANCELLED
    assert 3_000 <= outcome.duration_ms < SOON_MS
    assert running(pids) == []


def test_stop_ends_a_grace(either: Sandbox) -> None:
    run, pids = run_in_background(either, IGNORES)
    either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    either.supervisor.stop()
    assert running(pids) == []
    assert run.outcome().duration_ms < SOON_MS


def test_death_of_the_server_ends_a_grace(either: Sandbox) -> None:
    readable, writable = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            serve_in_a_grace(either, writable)
        finally:
            os._exit(1)
    os.close(writable)
    said = os.read(readable, 100)
    os.close(readable)
    family = descendants(server)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    assert said == b"in the grace"
    assert len(family) >= 2, "a zygote and an agent"
    wait_for(lambda: not running(family), "all to end", seconds=10.0)


def serve_in_a_grace(sandbox: Sandbox, writable: int) -> None:
    place = sandbox.folder.parent
    one = Supervisor(
        place / "own-scratch", place / "own-code", min_tier=sandbox.supervisor.min_tier
    )
    one.start()
    run_in_background(Sandbox(one, place / "own-code", place / "own-scratch"), IGNORES)
    one.cancel("victim", grace_seconds=LONG_SECONDS)
    os.write(writable, b"in the grace")
    signal.pause()


# Before agent code --------------------------------------------------------------------------------


def test_job_that_was_not_handed_over_gets_no_grace(either: Sandbox) -> None:
    outcome = either.run(
        IGNORES,
        key="early",
        is_wanted=lambda: either.supervisor.cancel("early", grace_seconds=LONG_SECONDS),
        **NO_HURRY,
    )
    assert outcome.reason is StopReason.CANCELLED
    assert outcome.duration_ms < SOON_MS


def test_agent_that_has_not_begun_gets_no_grace(either: Sandbox) -> None:
    assert either.run("def handle(payload): return 1").reason is StopReason.RETURNED
    os.kill(zygote_of(either), signal.SIGSTOP)
    run = Background(either, IGNORES, key="victim", **NO_HURRY)
    its_own = run.conversation()
    wait_for(lambda: its_own.ground, "the job to be handed over")
    assert either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    os.kill(zygote_of(either), signal.SIGCONT)
    outcome = run.outcome()  # it may have begun before the kill
    assert outcome.reason is StopReason.CANCELLED
    assert outcome.duration_ms < SOON_MS


# More than one process ----------------------------------------------------------------------------

ASKS_ITS_CHILD = """
    import os, signal, time

    def end(*_):
        print("the child heard")
        os._exit(0)

    def handle(payload):
        signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"the agent heard\\n"))
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, end)
            print("ready")
            while True: time.sleep(0.1)
        os.waitpid(child, 0)
        print("the child is gone")
"""
# Of a session of its own, without a parent.
LEAVES_A_DAEMON = """
    import os, signal, time

    def handle(payload):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print("ready")
                time.sleep(1000)
            os._exit(0)
        os.wait()
        signal.signal(signal.SIGTERM, signal.{at_sigterm})
        print("alone")
        time.sleep(1000)
"""


def test_processes_of_the_agent_hear_it_too(with_processes: Sandbox) -> None:
    run, pids = run_in_background(with_processes, ASKS_ITS_CHILD)
    with_processes.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    outcome = run.outcome()
    assert outcome.reason is StopReason.CANCELLED
    assert set(outcome.logs.splitlines()) == {
        "ready",
        "the agent heard",
        "the child heard",
        "the child is gone",
    }
    assert running(pids) == []


@pytest.mark.parametrize(("at_sigterm", "grace"), [("SIG_IGN", 0.5), ("SIG_DFL", LONG_SECONDS)])
def test_whole_tree_ends_with_the_agent(
    with_processes: Sandbox, at_sigterm: str, grace: float
) -> None:
    run, _ = run_in_background(with_processes, LEAVES_A_DAEMON.format(at_sigterm=at_sigterm))
    run.wait_for_print("alone")
    pids = descendants(zygote_of(with_processes))
    assert len(pids) == (3 if with_processes.allows_processes else 2), "the init if any, two more"
    with_processes.supervisor.cancel("victim", grace_seconds=grace)
    outcome = run.outcome()
    assert running(pids) == []
    assert outcome.reason is StopReason.CANCELLED
    assert outcome.duration_ms < SOON_MS


def test_neighbours_hear_nothing(either: Sandbox) -> None:
    source = stubborn("signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'heard\\n'))")
    neighbour = Background(either, source, key="neighbour", **NO_HURRY)
    neighbour.wait_for_print("ready")
    run, _pids = run_in_background(either, CLEANS_UP)
    either.supervisor.cancel("victim", grace_seconds=LONG_SECONDS)
    assert run.outcome().reason is StopReason.CANCELLED
    assert not neighbour.conversation().ended.is_set()
    either.supervisor.cancel("neighbour")
    assert neighbour.outcome().logs == "ready\n"


# Hostile agents -----------------------------------------------------------------------------------

CHEATS = {
    "returns": "raise Told",
    "forges a result": (
        'os.write(3, (42).to_bytes(4, "big") + b\'{"kind":"returned","result":{"won":"always"}}\')'
        "; os._exit(0)"
    ),
    "floods the log": "\n            while True: print('x' * 1000)",
    "floods the report": "\n            while True: os.write(3, b'x' * 65536)",
    "signals itself": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("how", CHEATS)
def test_sigterm_is_of_no_use_to_an_agent(either: Sandbox, how: str) -> None:
    source = f"""
        import os, signal, time

        class Told(Exception):
            pass

        def told(*_):
            {CHEATS[how]}

        def handle(payload):
            signal.signal(signal.SIGTERM, told)
            try:
                print("ready")
                while True: time.sleep(0.1)
            except Told:
                return {{"won": "always"}}
    """
    run, pids = run_in_background(either, source, log_written_bytes=1_000_000)
    # Long enough only for what ends sooner by itself or is killed for what it does.
    grace_seconds = 0.5 if how == "signals itself" else LONG_SECONDS
    either.supervisor.cancel("victim", grace_seconds=grace_seconds)
    outcome = run.outcome()
    assert (outcome.reason, outcome.details) == (StopReason.CANCELLED, {})
    assert outcome.duration_ms < SOON_MS
    assert running(pids) == []
