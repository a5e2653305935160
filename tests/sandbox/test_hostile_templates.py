"""What a template that means ill may cost others: nothing, and what it is told is the truth.

More of them, each through a whole server, stand in tests/agents/templates.
"""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import supervisor as supervisor_module
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.policy import MEGABYTE, Limits, Tier
from tests.sandbox.conftest import Kept, Sandbox
from tests.sandbox.layers.children import missing
from tests.sandbox.versions import Version, result, wait_for_spare, warm
from tests.waiting import wait_for

TAKEOVER = Path(__file__).parent.parent / "agents" / "templates" / "takeover.py"
FILES = {"takeover.py": TAKEOVER.read_text(encoding="utf-8")}
PATIENT = Limits(wall_seconds=60.0, cpu_seconds=60)


@pytest.fixture(scope="module")
def kept_warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(
        tmp_path_factory.mktemp("hostile"),
        supervisor_module._STUB_PATH,
        Tier.B,
        warm_memory_bytes=512 * MEGABYTE,
    )
    yield kept
    kept.stop()


@pytest.fixture
def sandbox(kept_warm: Kept) -> Iterator[Sandbox]:
    with kept_warm.lend() as lent:
        if lent.supervisor.ground.tier is not Tier.A:
            missing("namespaces and filtered system calls, which templates take")
        yield lent


@pytest.fixture
def neighbour(sandbox: Sandbox) -> Iterator[Version]:
    """An honest version: whatever the test does, it keeps its template."""
    version = warm(sandbox, "seen = []\ndef handle(n):\n    seen.append(n)\n    return seen")
    zygote = sandbox.supervisor.zygote_pid
    yield version
    assert result(version.run(7)) == {"result": [7]}
    assert version.sandbox.supervisor.zygote_pid == zygote
    assert version.name not in version.sandbox.supervisor.templates._deaths


def hostile(sandbox: Sandbox, action: str, handle: str = "return 'ran'") -> Version:
    """Write a version whose template does `action` with its channel when it was found fit."""
    source = f"import os, signal, threading, time\nimport takeover\n\n{action}\n"
    source += f"takeover.after_import(act)\n\ndef handle(payload):\n    {handle}\n"
    return Version(sandbox, source, files=FILES, limits=PATIENT)


SERVES = """
def serve(channel):
    def be_spare(birth):
        takeover.become_spare(birth)
        report, payload = takeover.take_job(birth)
        takeover.answer(report, {"result": handle(payload)})
    takeover.serve(channel, be_spare)
"""
OUTGROWS = {
    "grows": "kept = []\ndef act(channel):\n    kept.append(bytearray(b'x' * 60_000_000))\n",
    "starts a thread": (
        "def act(channel):\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    ),
}


@pytest.mark.parametrize("name", OUTGROWS)
def test_a_template_that_was_fit_and_is_not_any_more_is_ended(
    sandbox: Sandbox, neighbour: Version, name: str
) -> None:
    late = OUTGROWS[name].replace("act(channel)", "grow()")
    action = f"{late}\ndef act(channel):\n"
    action += "    def be_spare(birth):\n"
    action += "        takeover.become_spare(birth); takeover.take_job(birth)\n"
    action += "    births = takeover.births(channel)\n"
    action += "    for birth in births:\n"
    action += "        if takeover.clone() == 0: be_spare(birth); os._exit(0)\n"
    action += "        birth.close(); grow()\n"
    version = hostile(sandbox, action)
    # The server looks once more when it is ready, and may see it then.
    assert version.prepare().reason in (StopReason.RETURNED, StopReason.UNFIT)
    wait_for(lambda: not version.stands, "the template to be ended")
    assert version.run().details["result"] == {"result": "ran"}
    wait_for_spare(sandbox)  # the neighbour's three alone


@pytest.mark.parametrize("name", OUTGROWS)
def test_a_spare_that_does_more_than_wait_is_ended(
    sandbox: Sandbox, neighbour: Version, name: str
) -> None:
    late = OUTGROWS[name].replace("act(channel)", "grow()")
    action = f"{late}\ndef act(channel):\n    def be_spare(birth):\n"
    action += "        takeover.become_spare(birth); grow(); time.sleep(10**6)\n"
    version = hostile(sandbox, f"{action}    takeover.serve(channel, be_spare)\n")
    assert version.prepare().reason is StopReason.RETURNED
    wait_for(lambda: not version.stands, "the template to be ended")
    wait_for_spare(sandbox)


def test_an_import_does_not_take_the_threads_of_others(
    sandbox: Sandbox, neighbour: Version
) -> None:
    source = """
        import threading
        threading.stack_size(32768)
        never = threading.Event()
        for _ in range(500):  # not without end, or the limit of memory may come first
            threading.Thread(target=never.wait, daemon=True).start()
        never.wait()
        def handle(payload): ...
    """
    version = Version(sandbox, source, limits=PATIENT)
    assert version.prepare().reason is StopReason.KILLED_BY_SIGNAL
    wait_for_spare(sandbox)


def test_spares_are_not_made_without_end(sandbox: Sandbox, neighbour: Version) -> None:
    action = "def act(channel): takeover.serve(channel, takeover.become_spare)"
    version = hostile(sandbox, action)
    assert version.prepare().reason is StopReason.RETURNED
    wait_for(lambda: not version.stands, "the template to be given up")
    wait_for_spare(sandbox)


def test_who_waits_for_a_template_in_vain_runs_once(sandbox: Sandbox, neighbour: Version) -> None:
    """Each run is forked from the zygote's loop: in the middle of it the child forked the others
    again, and each ran twice.
    """
    version = hostile(
        sandbox,
        "kept = []\ndef act(channel): kept.extend(takeover.births(channel))",
        "print('began', payload); time.sleep(0.2); return payload",
    )
    assert version.prepare().reason is StopReason.RETURNED
    outcomes: dict[int, Any] = {}

    def run(number: int) -> None:
        outcomes[number] = version.run(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    told = {number: (one.reason, one.logs) for number, one in outcomes.items()}
    assert told == {n: (StopReason.RETURNED, f"began {n}\n") for n in range(5)}
    assert not any(one.is_warm for one in outcomes.values())


def test_a_run_whose_template_was_dropped_is_still_watched(
    sandbox: Sandbox, neighbour: Version
) -> None:
    """It clones itself without end: all of it is destroyed, though its template is gone."""
    action = """
def act(channel):
    def be_spare(birth):
        takeover.become_spare(birth)
        report, payload = takeover.take_job(birth)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.write(1, b"ready")
        signal.pause()
        while True:
            if takeover.clone() == 0:
                signal.pause()
    takeover.serve(channel, be_spare)
"""
    version, outcomes = hostile(sandbox, action), list[Any]()
    assert version.prepare().reason is StopReason.RETURNED
    neighbours = wait_for_spare(sandbox, 6)
    thread = threading.Thread(target=lambda: outcomes.append(version.run(key="cloning")))
    thread.start()
    known = sandbox.supervisor._conversations
    conversation = wait_for(lambda: known.get("cloning"), "the run")
    wait_for(lambda: "ready" in conversation._log.text(), "the run to begin")
    pid = conversation._pidfd
    assert pid is not None
    sandbox.supervisor.templates.drop(version.name)
    wait_for_spare(sandbox, 5)  # three of the neighbour, the init and the run
    signal.pidfd_send_signal(pid, signal.SIGUSR1)
    thread.join(60.0)
    assert outcomes[0].reason is StopReason.KILLED_BY_SIGNAL
    assert outcomes[0].duration_ms < 30_000
    assert len(wait_for_spare(sandbox) & neighbours) == 3


def test_a_clone_that_skips_its_walls_has_the_limits_of_a_run(
    sandbox: Sandbox, neighbour: Version
) -> None:
    action = f"{SERVES}\nact = serve"
    handle = (
        "import resource; return [resource.getrlimit(getattr(resource, name)) "
        "for name in ('RLIMIT_CPU', 'RLIMIT_NPROC', 'RLIMIT_NOFILE')]"
    )
    version = hostile(sandbox, action, handle)
    assert version.prepare().reason is StopReason.RETURNED
    found = result(version.run(cpu_seconds=9))["result"]
    assert found == [[9, 10], [64, 64], [64, 64]]


def test_descriptors_that_come_along_are_not_kept(sandbox: Sandbox, neighbour: Version) -> None:
    action = """
import array, socket
def act(channel):
    fds = array.array("i", [os.open(os.devnull, os.O_RDONLY) for _ in range(4)])
    channel.sendmsg([takeover.READY], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    time.sleep(10**6)
"""
    fds = f"/proc/{sandbox.supervisor.zygote_pid}/fd"
    wait_for_spare(sandbox)
    before = len(os.listdir(fds))
    for _ in range(3):
        version = hostile(sandbox, action)
        assert version.prepare().reason is StopReason.RETURNED
        sandbox.supervisor.templates.drop(version.name)
    wait_for_spare(sandbox)
    wait_for(lambda: len(os.listdir(fds)) <= before, "the zygote to close what it had")


def test_a_spare_whose_end_was_hidden_gets_no_job(sandbox: Sandbox, neighbour: Version) -> None:
    """Its birth stays open in the template, so that nothing but its exit tells of it."""
    action = """
held = []
def act(channel):
    for birth in takeover.births(channel):
        held.append(birth)
        if takeover.clone() == 0:
            takeover.become_spare(birth)
            os._exit(0)
"""
    version = hostile(sandbox, action)
    assert version.prepare().reason is StopReason.RETURNED
    wait_for(lambda: not version.stands, "the template to be given up")
    assert version.run().details["result"] == {"result": "ran"}
    wait_for_spare(sandbox)
