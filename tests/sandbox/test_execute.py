"""What comes of an agent that behaves, errs, or misbehaves: one true reason each."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from tests.processes import descendants, is_running, open_descriptors
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for


def test_returns_what_the_agent_returns(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def handle(payload): return {'got': payload}", {"text": "é"})
    assert outcome.reason is StopReason.RETURNED
    assert outcome.details["result"] == {"got": {"text": "é"}}
    assert outcome.message == ""


@pytest.mark.parametrize("value", ["'text'", "None", "[1, 2]", "1.5", "True"])
def test_wraps_what_is_no_dict(sandbox: Sandbox, value: str) -> None:
    outcome = sandbox.run(f"def handle(payload): return {value}")
    assert outcome.details["result"] == {"result": eval(value)}


def test_awaits_a_coroutine_function(sandbox: Sandbox) -> None:
    source = """
        import asyncio

        async def handle(payload):
            await asyncio.sleep(0)
            return {"async": True}
    """
    assert sandbox.run(source).details["result"] == {"async": True}


MISBEHAVIOUR = {
    "raises": (
        "1 / 0",
        StopReason.EXCEPTION,
        "ZeroDivisionError: division by zero (main.py, line 2)",
    ),
    "returns_nan": ("return float('nan')", StopReason.NOT_JSON, "not valid JSON"),
    "returns_bytes": ("return b'x'", StopReason.NOT_JSON, "bytes is not JSON serializable"),
    "returns_itself": ("a = []; a.append(a); return a", StopReason.NOT_JSON, "Circular"),
    "returns_surrogate": ("return '\\ud800'", StopReason.NOT_JSON, "surrogate"),
    "returns_deep": (
        "r = []\n    for _ in range(150): r = [r]\n    return r",
        StopReason.NOT_JSON,
        "levels deep",
    ),
    "returns_abyss": (
        "r = []\n    for _ in range(100000): r = [r]\n    return r",
        StopReason.NOT_JSON,
        "nested too deeply",
    ),
    "returns_50_mb": ("return 'x' * 50_000_000", StopReason.OUTPUT_TOO_LARGE, "50,000,0"),
    "exits_0": ("import os; os._exit(0)", StopReason.EXITED, "exit code 0"),
    "exits_3": ("import os; os._exit(3)", StopReason.EXITED, "exit code 3"),
    "calls_sys_exit": ("import sys; sys.exit(4)", StopReason.EXITED, "exit code 4"),
    "calls_exit": ("exit()", StopReason.EXITED, "exit code 0"),
    "raises_keyboard_interrupt": (
        "raise KeyboardInterrupt",
        StopReason.EXCEPTION,
        "KeyboardInterrupt",
    ),
    "segfaults": (
        "import ctypes; ctypes.string_at(0)",
        StopReason.KILLED_BY_SIGNAL,
        "signal SIGSEGV",
    ),
    "kills_itself": (
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n    while True: pass",
        StopReason.KILLED_BY_SIGNAL,
        "signal SIGTERM",
    ),
    "wants_too_much_memory": ("bytearray(2**31)", StopReason.OUT_OF_MEMORY, "256 MB"),
    "recurses": ("def f(): f()\n    f()", StopReason.EXCEPTION, "RecursionError"),
    "prints_fake_json": (
        'print(\'{"kind": "returned", "result": {"forged": true}}\'); raise ValueError("real")',
        StopReason.EXCEPTION,
        "ValueError: real",
    ),
    "writes_to_stdout_descriptor": (
        "import os; os.write(1, b'\\0\\0\\0\\2{}'); raise ValueError(\"real\")",
        StopReason.EXCEPTION,
        "ValueError: real",
    ),
    "writes_garbage_to_the_report": (
        "import os; os.write(3, b'garbage'); return {}",
        StopReason.NOT_JSON,
        "not one whole frame",
    ),
    "floods_the_report": (
        "import os\n    while True: os.write(3, b'x' * 65536)",
        StopReason.OUTPUT_TOO_LARGE,
        "is too large",
    ),
    "closes_the_report": ("import os; os.close(3); return {}", StopReason.EXITED, "exit code"),
    "floods_the_log": (
        "while True: print('x' * 1000)",
        StopReason.OUTPUT_TOO_LARGE,
        "printed more than",
    ),
    "never_returns": ("while True: pass", StopReason.TIMEOUT, "longer than 1 s"),
    "has_a_lying_exception": (
        "class E(Exception):\n        def __str__(self): raise RuntimeError\n    raise E",
        StopReason.EXCEPTION,
        "E",
    ),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_tells_what_went_wrong(sandbox: Sandbox, name: str) -> None:
    body, reason, message = MISBEHAVIOUR[name]
    wall_seconds = 1.0 if reason is StopReason.TIMEOUT else 30.0
    outcome = sandbox.run(f"def handle(payload):\n    {body}", wall_seconds=wall_seconds)
    assert (outcome.reason, message in outcome.message) == (reason, True), outcome
    assert "\n" not in outcome.message
    assert sandbox.run("def handle(payload): return 1").reason is StopReason.RETURNED
    assert list(sandbox.scratch.iterdir()) == []


def test_uses_up_its_cpu_time(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def handle(payload):\n    while True: pass", cpu_seconds=1)
    assert outcome.reason is StopReason.CPU_LIMIT


def test_uses_up_its_cpu_time_ignoring_the_warning(sandbox: Sandbox) -> None:
    source = """
        import signal

        def handle(payload):
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
            while True: pass
    """
    assert sandbox.run(source, cpu_seconds=1).reason is StopReason.CPU_LIMIT


def test_writes_too_large_a_file(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "def handle(payload): open('big', 'wb').write(b'x' * 2_000_000)", file_bytes=1_000_000
    )
    assert outcome.reason is StopReason.EXCEPTION
    assert "File too large" in outcome.message


def test_opens_too_many_files(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "import os\ndef handle(payload): return [os.open('/dev/null', 0) for _ in range(100)]"
    )
    assert "Too many open files" in outcome.message


LEAVERS = {
    "forks_children_that_ignore_sigterm": """
        import os, signal, time

        def handle(payload):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for _ in range(3):
                if os.fork() == 0:
                    time.sleep(1000)
            time.sleep(1000)
    """,
    "forks_daemons": """
        import os, time

        def handle(payload):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        time.sleep(1000)
                    os._exit(0)
            return payload
    """,
    "forks_grandchildren_in_sessions": """
        import os, time

        def handle(payload):
            for _ in range(4):
                if os.fork() == 0:
                    os.setsid()
                else:
                    time.sleep(1000)
            time.sleep(1000)
    """,
    "starts_a_program": """
        import subprocess, sys

        def handle(payload):
            program = "print('started', flush=True); import time; time.sleep(1000)"
            child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
            assert child.stdout.readline() == b"started\\n"
            return payload
    """,
    "holds_the_pipes_open": """
        import os, time

        def handle(payload):
            if os.fork() == 0:
                os.setsid()
                print("still here", flush=True)
                time.sleep(1000)
            return payload
    """,
}


@pytest.mark.parametrize("name", LEAVERS)
def test_leaves_no_process_behind(with_processes: Sandbox, name: str) -> None:
    sandbox = with_processes
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    outcome = sandbox.run(LEAVERS[name], {}, wall_seconds=1.0)
    assert outcome.reason in (StopReason.RETURNED, StopReason.TIMEOUT)
    assert descendants(zygote) == set()
    assert is_running(zygote)


def test_scratch_folder_of_any_shape_is_removed(sandbox: Sandbox) -> None:
    source = """
        import os

        def handle(payload):
            os.symlink("/etc/passwd", "link")
            os.mkfifo("fifo")
            os.mkdir("closed"); open("closed/file", "w").close(); os.chmod("closed", 0)
            for _ in range(3000):
                os.mkdir("deep"); os.chdir("deep")
    """
    assert sandbox.run(source).reason is StopReason.RETURNED
    assert list(sandbox.scratch.iterdir()) == []


def test_cancel_kills_the_tree(sandbox: Sandbox) -> None:
    outcomes: list[Any] = []
    source = LEAVERS["forks_children_that_ignore_sigterm"]

    def run() -> Any:
        return sandbox.run(source, key="victim", allows_processes=True)

    thread = threading.Thread(target=lambda: outcomes.append(run()))
    thread.start()
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: len(descendants(zygote)) >= 4, "the agent to fork")
    assert sandbox.supervisor.cancel("victim")
    thread.join()
    assert outcomes[0].reason is StopReason.CANCELLED
    assert descendants(zygote) == set()


def test_cancel_of_nothing_tells_so(sandbox: Sandbox) -> None:
    assert not sandbox.supervisor.cancel("nobody")


def test_dead_zygote_is_replaced(sandbox: Sandbox) -> None:
    outcomes: list[Any] = []
    source = "def handle(payload):\n    while True: pass"
    thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(source)))
    thread.start()
    first = sandbox.supervisor.zygote_pid
    assert first is not None
    wait_for(lambda: descendants(first), "the agent to start")
    os.kill(first, signal.SIGKILL)
    thread.join()
    assert outcomes[0].reason is StopReason.SANDBOX_FAILURE
    wait_for(lambda: sandbox.supervisor.zygote_pid != first, "a new zygote")
    assert sandbox.run("def handle(payload): return 1").reason is StopReason.RETURNED


def test_stop_kills_what_runs(sandbox: Sandbox) -> None:
    outcomes: list[Any] = []
    source = "def handle(payload):\n    while True: pass"
    thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(source)))
    thread.start()
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: descendants(zygote), "the agent to start")
    children = descendants(zygote)
    sandbox.supervisor.stop()
    thread.join()
    assert not [pid for pid in (zygote, *children) if is_running(pid)]
    assert outcomes[0].reason is StopReason.SANDBOX_FAILURE


def test_many_runs_at_once_keep_apart(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    print('log', payload['n'])\n    return payload"
    outcomes: dict[int, Any] = {}

    def run(number: int) -> None:
        outcomes[number] = sandbox.run(source, {"n": number}, key=f"many-{number}")

    threads = [threading.Thread(target=run, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: o.details["result"] for n, o in outcomes.items()} == {n: {"n": n} for n in range(24)}
    assert {n: o.logs for n, o in outcomes.items()} == {n: f"log {n}\n" for n in range(24)}


def test_runs_leave_no_descriptor_in_the_server(sandbox: Sandbox) -> None:
    sandbox.run("def handle(payload): return 1")
    before = open_descriptors()
    for _ in range(20):
        sandbox.run("def handle(payload): return 1")
    assert open_descriptors() == before


def test_runs_leave_no_descriptor_in_the_zygote(sandbox: Sandbox) -> None:
    fds = f"/proc/{sandbox.supervisor.zygote_pid}/fd"
    sandbox.run("def handle(payload): return 1")
    before = len(os.listdir(fds))
    for _ in range(20):
        sandbox.run("def handle(payload): return 1")
    # The exit is told before the lease is closed: the first look may have seen one more.
    wait_for(lambda: len(os.listdir(fds)) <= before, "the last lease to be closed")


def test_a_job_that_nobody_wants_any_more_never_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    code = tmp_path / "unwanted"
    code.mkdir()
    (code / "main.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef handle(p): ...")
    job = Job(Mode.EXECUTE, Limits(), str(code), "main:handle")
    outcome = sandbox.supervisor.run(job, key="unwanted", is_wanted=lambda: False)
    assert outcome.reason is StopReason.CANCELLED
    assert not (tmp_path / "ran").exists()


def test_cancel_waits_for_the_end(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    while True: pass"
    thread = threading.Thread(target=sandbox.run, args=(source,), kwargs={"key": "victim"})
    thread.start()
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: descendants(zygote), "the agent to start")
    assert sandbox.supervisor.cancel("victim")
    assert descendants(zygote) == set()
    thread.join()
