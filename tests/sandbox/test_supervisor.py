"""What the supervisor and the zygote do when something of theirs is broken, stuck or gone."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import conversation, scratch, supervisor
from anymind_lite.sandbox.in_server.outcome import Observed, Outcome, StopReason, read_outcome
from anymind_lite.sandbox.policy import MEGABYTE, Tier
from tests.processes import descendants, is_running
from tests.sandbox.background import Background, zygote_of
from tests.sandbox.conftest import Sandbox
from tests.sandbox.layers.children import missing
from tests.waiting import wait_for

RETURNS = "def handle(payload): return 1"
FOREVER = "def handle(payload):\n    while True: pass"
# A child that left its group and session and lost its parent, beside an agent that goes on.
LEAVES_A_DAEMON = """
    import os, time

    def handle(payload):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        os.wait()
        time.sleep(1000)
"""


def kill_zygote(sandbox: Sandbox) -> None:
    """Kill it and wait until the stub is gone too, but not for the next."""
    process = sandbox.supervisor._process
    assert process is not None
    os.kill(zygote_of(sandbox), signal.SIGKILL)
    wait_for(lambda: not is_running(process.pid), "the stub to die")


@pytest.mark.parametrize("name", ["gone", "file", "link"])
def test_scratch_parent_may_be_spoilt_by_an_agent(plain: Sandbox, name: str) -> None:
    shutil.rmtree(plain.scratch)
    elsewhere = plain.folder / "elsewhere"
    elsewhere.mkdir()
    if name == "file":
        plain.scratch.write_text("")
    elif name == "link":
        plain.scratch.symlink_to(elsewhere)
    outcome = plain.run(RETURNS)
    expected = StopReason.SANDBOX_FAILURE if name == "file" else StopReason.RETURNED
    assert outcome.reason is expected, outcome
    plain.supervisor.stop()
    assert not plain.scratch.exists()
    assert elsewhere.exists()
    plain.supervisor.start()
    assert plain.run(RETURNS).reason is StopReason.RETURNED


def test_full_disk_is_an_outcome(plain: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    outcome = plain.run(RETURNS)
    assert outcome.reason is StopReason.SANDBOX_FAILURE
    assert outcome.message == "The sandbox could not take the job (No space left on device)."


def test_scratch_folder_is_removed_whatever_is_in_it(plain: Sandbox) -> None:
    source = """
        import os

        def handle(payload):
            os.symlink("/", "link")
            os.mkfifo("fifo")
            for _ in range(90):
                os.mkdir("d")
                os.chdir("d")
    """
    assert plain.run(source).reason is StopReason.RETURNED
    assert list(plain.scratch.iterdir()) == []


@pytest.mark.parametrize("replacement", ["os.symlink('/', place)", "open(place, 'w').close()"])
def test_replaced_scratch_folder_is_removed(bare: Sandbox, replacement: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("a root server's agents may not replace it")
    source = f"""
        import os

        def handle(payload):
            place = os.getcwd()
            os.chdir("/")
            os.rmdir(place)
            {replacement}
    """
    assert bare.run(source).reason is StopReason.RETURNED
    assert list(bare.scratch.iterdir()) == []


HOARDS = {
    "bytes": "open('f%d' % n, 'wb').write(b'x' * 1_000_000)",
    "files": "open('f%d' % n, 'w').close()",
    "folders": "os.mkdir('d'); os.chdir('d')",
}


@pytest.mark.parametrize("name", HOARDS)
def test_scratch_folder_without_a_quota_is_watched(plain: Sandbox, name: str) -> None:
    source = f"""
        import os, time

        def handle(payload):
            for n in range(60):
                {HOARDS[name]}
            time.sleep(30)
    """
    limits: dict[str, Any] = {
        "bytes": {"scratch_bytes": 10_000_000},
        "files": {"scratch_files": 50},
    }
    limits["folders"] = {"scratch_files": 50}
    outcome = plain.run(source, **limits[name])
    assert outcome.reason is StopReason.OUTPUT_TOO_LARGE, outcome
    assert "in its scratch folder" in outcome.message
    assert list(plain.scratch.iterdir()) == []


@pytest.mark.parametrize(("lost", "ends"), [(499, False), (501, True)])
def test_disk_that_loses_half_its_room_is_saved(
    plain: Sandbox, monkeypatch: pytest.MonkeyPatch, lost: int, ends: bool
) -> None:
    rooms = iter([1000 * MEGABYTE])
    monkeypatch.setattr(scratch, "_room", lambda _: next(rooms, (1000 - lost) * MEGABYTE))
    outcome = plain.run(RETURNS, scratch_bytes=MEGABYTE)
    assert (outcome.reason is StopReason.OUTPUT_TOO_LARGE) is ends, outcome
    assert ends == (f"The disk lost {lost} MB of its room" in outcome.message)


def test_run_waits_for_the_next_zygote(either: Sandbox) -> None:
    for _ in range(2):
        kill_zygote(either)
        assert either.run(RETURNS).reason is StopReason.RETURNED


def test_zygote_that_cannot_be_started_is_tried_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [errno.EAGAIN, errno.EMFILE, errno.ENOMEM]
    real = subprocess.Popen

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        if errors:
            number = errors.pop()
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keywords)

    monkeypatch.setattr(subprocess, "Popen", refuse)
    kill_zygote(sandbox)
    assert sandbox.run(RETURNS).reason is StopReason.RETURNED
    assert errors == []


WEAKER = """
import errno, os, sys
sys.path.insert(0, {root!r})
from anymind_lite.sandbox.in_zygote import ground, stub

def fail(_):
    raise OSError(errno.{error}, "for a while")

if os.path.exists({flag!r}):
    ground.probe = fail
stub.main()
"""


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_next_zygote_is_never_weaker_than_the_first(
    open_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    stub, flag = open_path / "stub.py", open_path / "flag"
    root = str(Path(__file__).parent.parent.parent)
    stub.write_text(WEAKER.format(root=root, flag=str(flag), error=error), encoding="utf-8")
    monkeypatch.setattr(supervisor, "_STUB_PATH", stub)
    monkeypatch.setattr(supervisor, "_HAND_OVER_SECONDS", 0.5)
    one = supervisor.Supervisor(open_path / "scratch", open_path / "code")
    one.start()
    sandbox = Sandbox(one, open_path / "code", open_path / "scratch")
    try:
        if not one.ground.has_namespaces:
            missing(f"namespaces: {one.ground}")
        assert sandbox.run(RETURNS).tier is Tier.A
        flag.touch()
        kill_zygote(sandbox)
        refused = sandbox.run(RETURNS)
        assert (refused.reason, refused.tier) == (StopReason.SANDBOX_FAILURE, None)
        assert refused.message == "The sandbox is being started again."
        wait_for(lambda: "for a while" in caplog.text, "the log to tell")
        flag.unlink()
        wait_for(lambda: sandbox.run(RETURNS).tier is Tier.A, "the sandbox to be back")
    finally:
        one.stop()


def test_first_start_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    one = supervisor.Supervisor(tmp_path / "scratch", tmp_path / "code")
    with pytest.raises(FileNotFoundError):
        one.start()
    one.stop()


@pytest.fixture
def stuck_send(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Makes hand-overs fill the control socket until it takes no more; tells when one starts."""
    started = threading.Event()
    # A zygote that serves has set its death signal: stopped before that, it outlives the stub.
    assert sandbox.run(RETURNS).reason is StopReason.RETURNED

    def hand_over(_self: object, control: Any, *_: object) -> None:
        started.set()
        while True:
            control.sendall(b"x" * 65536)

    monkeypatch.setattr(conversation.Conversation, "hand_over", hand_over)
    return started


def stop_zygote(sandbox: Sandbox) -> None:
    os.kill(zygote_of(sandbox), signal.SIGSTOP)


@pytest.fixture
def hand_overs(monkeypatch: pytest.MonkeyPatch) -> list[conversation.Conversation]:
    """What was handed over to a zygote, one conversation for each time."""
    real_hand_over, seen = conversation.Conversation.hand_over, []

    def hand_over(one: conversation.Conversation, *arguments: Any) -> None:
        real_hand_over(one, *arguments)
        seen.append(one)

    monkeypatch.setattr(conversation.Conversation, "hand_over", hand_over)
    return seen


def test_job_that_nobody_had_read_is_run_by_the_next_zygote(
    either: Sandbox, hand_overs: list[conversation.Conversation]
) -> None:
    """The socket of a zygote that is about to die takes jobs to the last."""
    stop_zygote(either)
    run = Background(either, RETURNS, key="early")
    wait_for(lambda: hand_overs, "the job to be handed over")
    kill_zygote(either)
    outcome = run.outcome()
    assert (outcome.reason, len(hand_overs)) == (StopReason.RETURNED, 2), outcome


def test_job_that_was_read_is_not_run_again(
    either: Sandbox, hand_overs: list[conversation.Conversation]
) -> None:
    run = Background(either, "def handle(p):\n    print('up')\n    while True: pass", key="late")
    run.wait_for_print("up")
    kill_zygote(either)
    outcome = run.outcome()
    assert (outcome.reason, len(hand_overs)) == (StopReason.SANDBOX_FAILURE, 1), outcome
    assert outcome.message == "The sandbox ended unexpectedly."


def test_job_that_was_cancelled_is_not_handed_over_again(
    either: Sandbox,
    hand_overs: list[conversation.Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "_STOP_SECONDS", 0.1)
    stop_zygote(either)
    run = Background(either, RETURNS, key="off")
    wait_for(lambda: hand_overs, "the job to be handed over")
    assert either.supervisor.cancel("off")
    kill_zygote(either)
    outcome = run.outcome()
    assert (outcome.reason, len(hand_overs)) == (StopReason.SANDBOX_FAILURE, 1), outcome


@pytest.mark.parametrize("ending", ["cancel", "stop"])
def test_stuck_zygote_blocks_neither_cancel_nor_stop(
    sandbox: Sandbox, stuck_send: threading.Event, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(supervisor, "_STOP_SECONDS", 0.1)
    control = sandbox.supervisor._control
    assert control is not None
    control.settimeout(3.0)  # a send blocks longer than is waited below
    stop_zygote(sandbox)
    run = Background(sandbox, RETURNS, key="stuck")
    assert stuck_send.wait(10.0)
    calls: dict[str, Callable[[], object]] = {
        "cancel": lambda: sandbox.supervisor.cancel("stuck"),
        "stop": sandbox.supervisor.stop,
    }
    thread = threading.Thread(target=calls[ending])
    thread.start()
    thread.join(1.5)
    assert not thread.is_alive()
    assert run.outcome().reason is StopReason.SANDBOX_FAILURE


def test_zygote_that_takes_no_job_is_replaced(
    sandbox: Sandbox, stuck_send: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zygote_of(sandbox)
    control = sandbox.supervisor._control
    assert control is not None
    control.settimeout(0.2)
    stop_zygote(sandbox)
    outcome = sandbox.run(RETURNS)
    assert (outcome.reason, stuck_send.is_set()) == (StopReason.SANDBOX_FAILURE, True)
    assert outcome.message == "The sandbox could not take the job (timed out)."
    monkeypatch.undo()
    assert sandbox.run(RETURNS).reason is StopReason.RETURNED
    assert zygote_of(sandbox) != first
    wait_for(lambda: not is_running(first), "the first to end")


def test_zygote_itself_keeps_the_deadline(either: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    escalated: list[bool] = []
    seen: list[Observed] = []
    real_escalate = conversation.Conversation._escalate

    def escalate(one: conversation.Conversation, kill: Callable[[], None]) -> None:
        escalated.append(True)
        real_escalate(one, kill)

    def read(observed: Observed, *arguments: Any) -> Outcome:
        seen.append(observed)
        return read_outcome(observed, *arguments)

    monkeypatch.setattr(conversation.Conversation, "_escalate", escalate)
    monkeypatch.setattr(supervisor, "read_outcome", read)
    # Generous, so that a loaded machine is not taken for a zygote without a deadline.
    monkeypatch.setattr(conversation, "_OWN_KILL_SECONDS", 10.0)
    assert either.run(FOREVER, wall_seconds=0.3).reason is StopReason.TIMEOUT
    assert (escalated, seen[0].is_timed_out) == ([], True)
    assert seen[0].status == signal.SIGKILL


def test_stuck_zygote_is_replaced_and_the_run_times_out(
    either: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "_OWN_KILL_SECONDS", 0.2)
    monkeypatch.setattr(conversation, "_ZYGOTE_GRACE_SECONDS", 0.5)
    first = zygote_of(either)
    run = Background(
        either,
        "def handle(p):\n    print('up')\n    while True: pass",
        wall_seconds=2.0,
        key="stuck",
    )
    children = wait_for(lambda: descendants(first), "the agent to start")
    # Stopped before it told of the child, it leaves nobody who knows that the agent started.
    running = either.supervisor._conversations["stuck"]
    wait_for(lambda: running._pidfd is not None, "the zygote to tell of the child")
    stop_zygote(either)
    outcome = run.outcome()
    assert outcome.reason is StopReason.TIMEOUT, outcome
    assert either.run(RETURNS).reason is StopReason.RETURNED
    assert zygote_of(either) != first
    wait_for(lambda: not any(map(is_running, (first, *children))), "all to end")


def test_stop_ends_what_left_its_group(with_processes: Sandbox) -> None:
    either = with_processes
    zygote = zygote_of(either)
    run = Background(either, LEAVES_A_DAEMON)
    # The agent and the daemon; in namespaces there is an init too.
    count = 3 if either.supervisor.ground.has_namespaces else 2
    pids = wait_for(lambda: found if len(found := settled(zygote)) == count else None, "the daemon")
    either.supervisor.stop()
    assert not [pid for pid in pids if is_running(pid)]
    assert run.outcome().reason is StopReason.SANDBOX_FAILURE


def settled(zygote: int) -> set[int]:
    """Return the descendants if all of them are the zygote's own or an init's children."""
    found = descendants(zygote)
    below = set().union(*(descendants(pid) for pid in found if pid != min(found)), set())
    return set() if below else found
