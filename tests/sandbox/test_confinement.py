"""What a child sees of the world: nothing of the server's."""

import os
import signal
import threading
from pathlib import Path

import pytest

from anymind_lite.sandbox.in_child.layers import LAYERS
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.in_server.probe import sandbox_state, try_sandbox
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Tier
from tests.processes import descendants, is_running
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for


def test_agent_sees_a_clean_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hush")
    source = "import os\ndef handle(payload): return {'all': dict(os.environ), 'cwd': os.getcwd()}"
    seen = sandbox.run(source).details["result"]
    names = {"HOME", "TMPDIR", "PATH", "LANG", "PYTHONUNBUFFERED"}
    names |= {"LOGNAME", "USER", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    assert set(seen["all"]) == names
    assert seen["all"]["HOME"] == seen["cwd"]


def test_zygote_holds_no_variable_of_the_server(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(f"/proc/{sandbox.supervisor.zygote_pid}/environ").read_text(encoding="utf-8")
    assert sorted(item.partition("=")[0] for item in text.rstrip("\0").split("\0")) == [
        "LANG",
        "MALLOC_ARENA_MAX",
    ]


def test_agent_holds_only_its_own_descriptors(sandbox: Sandbox) -> None:
    source = """
        import os

        def handle(payload):
            open_ones = []
            for fd in range(200):
                try:
                    os.fstat(fd)
                except OSError:
                    continue
                open_ones.append(fd)
            return open_ones
    """
    # stdin, stdout, stderr and the report; the job was closed before the agent's code ran.
    assert sandbox.run(source).details["result"]["result"] == [0, 1, 2, 3]


def test_agent_leads_its_own_session(sandbox: Sandbox) -> None:
    source = "import os\ndef handle(payload): return os.getsid(0) == os.getpgid(0) == os.getpid()"
    assert sandbox.run(source).details["result"]["result"] is True


def test_agent_can_import_the_standard_library_alone(sandbox: Sandbox) -> None:
    source = """
        import sys

        def handle(payload):
            found = []
            for name in ("flask", "peewee", "anymind_lite", "anymind_lite.config", "pip"):
                try:
                    __import__(name)
                    found.append(name)
                except ImportError:
                    pass
            return {"found": found, "ours": [m for m in sys.modules if "anymind" in m]}
    """
    assert sandbox.run(source).details["result"] == {"found": [], "ours": []}


def test_standard_output_is_the_log_alone(sandbox: Sandbox) -> None:
    source = """
        import os, sys

        def handle(payload):
            print("to stdout")
            print("to stderr", file=sys.stderr)
            os.write(1, b"raw\\n")
            print("bad \\ud800")
            return {}
    """
    outcome = sandbox.run(source)
    assert outcome.logs == "to stdout\nto stderr\nraw\nbad \\ud800\n"


def test_prints_before_a_kill_are_kept(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    print('got so far')\n    while True: pass"
    outcome = sandbox.run(source, wall_seconds=0.5)
    assert (outcome.reason, outcome.logs) == (StopReason.TIMEOUT, "got so far\n")


def test_long_logs_keep_head_and_tail(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    for n in range(100_000): print('line', n)"
    logs = sandbox.run(source).logs
    assert logs.startswith("line 0\nline 1\n")
    assert logs.endswith("line 99998\nline 99999\n")
    assert "bytes left out" in logs
    assert len(logs) < 70_000


def test_traceback_shows_the_agents_frames_alone(sandbox: Sandbox) -> None:
    files = {"inner.py": "import json\n\ndef parse(text):\n    return json.loads(text)\n"}
    source = "import inner\n\ndef handle(payload):\n    return inner.parse('{')\n"
    outcome = sandbox.run(source, files=files)
    assert '  File "main.py", line 4, in handle\n    return inner.parse' in outcome.logs
    assert '  File "inner.py", line 4, in parse\n    return json.loads(text)' in outcome.logs
    assert "decoder.py" not in outcome.logs
    assert "runner.py" not in outcome.logs
    assert outcome.message.startswith("JSONDecodeError: ")
    assert outcome.message.endswith("(inner.py, line 4)")


def test_traceback_shows_causes(sandbox: Sandbox) -> None:
    source = """
        def handle(payload):
            try:
                {}["a"]
            except KeyError as exc:
                raise ValueError("outer") from exc
    """
    outcome = sandbox.run(source)
    assert "KeyError: 'a'" in outcome.logs
    assert "The above exception was the direct cause" in outcome.logs
    assert str(sandbox.folder) not in outcome.logs


def test_signals_stand_at_their_defaults(sandbox: Sandbox) -> None:
    source = """
        import signal

        def handle(payload):
            return {s.name: str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGCHLD)}
    """
    default = str(signal.SIG_DFL)
    assert sandbox.run(source).details["result"] == {"SIGTERM": default, "SIGCHLD": default}


def test_what_a_background_server_ignores_agents_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored = (signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    supervisor = Supervisor(tmp_path / "scratch", tmp_path / "code")
    try:
        supervisor.start()
        outcome = Sandbox(supervisor, tmp_path / "code", tmp_path / "scratch").run(
            "import os\ndef handle(number): os.kill(os.getpid(), number)", int(signal.SIGQUIT)
        )
    finally:
        supervisor.stop()
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    assert outcome.reason is StopReason.KILLED_BY_SIGNAL
    assert "SIGQUIT" in outcome.message


def test_kernel_confirms_no_new_privileges(sandbox: Sandbox) -> None:
    source = """
        import ctypes

        def handle(payload):
            return ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
    """
    assert sandbox.run(source).details["result"]["result"] == 1


def test_two_runs_share_no_state(sandbox: Sandbox) -> None:
    source = """
        import json, os, sys

        def handle(payload):
            before = [hasattr(json, "mark"), os.environ.get("MARK"), os.listdir(".")]
            json.mark = 1
            os.environ["MARK"] = "1"
            open("mark", "w").close()
            return before
    """
    for _ in range(2):
        assert sandbox.run(source).details["result"]["result"] == [False, None, []]


def test_every_layer_is_told_and_tried(sandbox: Sandbox) -> None:
    try_sandbox(sandbox.supervisor)
    states = sandbox_state(sandbox.supervisor).layers
    assert [state.name for state in states] == [layer.name for layer in LAYERS]
    for state in states:
        assert bool(state.why_off) == bool(state.fix) == (not state.is_on), state


def test_outcome_tells_which_walls_stood(sandbox: Sandbox, plain: Sandbox) -> None:
    source = "def handle(payload): return 1"
    strong, weak = sandbox.run(source), plain.run(source)
    assert (strong.tier, weak.tier) == (Tier.A, Tier.B)
    assert {"mounts", "files", "system_calls"} <= set(strong.layers) | {"files"}
    assert {"files", "system_calls"} <= set(weak.layers)
    assert not {"mounts", "processes"} & set(weak.layers)
    assert "processes" in sandbox.run(source, allows_processes=True).layers
    assert "processes" not in strong.layers


def test_weak_machine_refuses_jobs_and_says_what_to_do(bare: Sandbox) -> None:
    assert bare.run("def handle(payload): return 1").reason is StopReason.RETURNED
    bare.supervisor.min_tier = Tier.B
    outcome = bare.run("def handle(payload): return 1")
    assert outcome.reason is StopReason.SANDBOX_FAILURE
    assert "reaches tier C of the sandbox, and MIN_TIER is B" in outcome.message
    assert "doctor" in outcome.message
    assert (outcome.tier, outcome.layers) == (None, ())


def test_processes_are_refused_without_namespaces(plain: Sandbox) -> None:
    outcome = plain.run("def handle(payload): return 1", allows_processes=True)
    assert outcome.reason is StopReason.SANDBOX_FAILURE
    assert "needs namespaces" in outcome.message


def test_child_is_set_to_die_with_the_zygote_and_cannot_be_traced(sandbox: Sandbox) -> None:
    source = """
        import ctypes

        def handle(payload):
            libc = ctypes.CDLL(None)
            signal = ctypes.c_int(0)
            libc.prctl(2, ctypes.byref(signal), 0, 0, 0)  # PR_GET_PDEATHSIG
            return {"signal": signal.value, "dumpable": libc.prctl(3, 0, 0, 0, 0)}
    """
    assert sandbox.run(source).details["result"] == {"signal": signal.SIGKILL, "dumpable": 0}


def test_children_die_with_the_zygote(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    while True: pass"
    thread = threading.Thread(target=sandbox.run, args=(source,))
    thread.start()
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    children = wait_for(lambda: descendants(zygote), "the agent to start")
    os.kill(zygote, signal.SIGKILL)
    thread.join()
    wait_for(lambda: not [pid for pid in children if is_running(pid)], "the child to die")


def test_agent_learns_nothing_of_the_installation(sandbox: Sandbox) -> None:
    source = """
        import sys
        import __main__

        def handle(payload):
            return [sys.argv, sys.orig_argv, sorted(vars(__main__)), sys.path]
    """
    text = str(sandbox.run(source).details["result"])
    assert "anymind_lite" not in text
    assert "Zygote" not in text
