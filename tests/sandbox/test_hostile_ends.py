"""Agents that break what the child needs to tell its end: the reason is still the true one."""

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.protocol import Mode
from tests.processes import descendants
from tests.sandbox.conftest import Sandbox

PATCHES = {
    "exit": "import os; os._exit = lambda code=0: None",
    "write": "import os; os.write = lambda *_: 0; os.close = None",
    "json": "import json; json.dumps = json.loads = None",
    "exit_that_raises": "import os\n    def bad(*_): 1 / 0\n    os._exit = os.kill = bad",
    "stderr": "import sys; sys.stderr = sys.stdout = None",
    "no_streams": "import sys; del sys.stderr, sys.stdout",
}


@pytest.mark.parametrize("name", PATCHES)
def test_agent_cannot_return_from_the_child(either: Sandbox, name: str) -> None:
    zygote = either.supervisor.zygote_pid
    assert zygote is not None
    source = f"def handle(payload):\n    {PATCHES[name]}\n    return 1"
    outcome = either.run(source, wall_seconds=5.0)
    assert outcome.reason is StopReason.RETURNED, outcome
    assert descendants(zygote) == set()
    assert either.run("def handle(payload): return 2").details["result"] == {"result": 2}


def test_agent_finds_nothing_of_the_zygote(either: Sandbox) -> None:
    source = """
        import gc, sys

        def handle(payload):
            frame, found = sys._getframe(), []
            while frame is not None:
                found += [type(value).__name__ for value in frame.f_locals.values()]
                frame = frame.f_back
            found += [type(one).__name__ for one in gc.get_objects()]
            return [name for name in found if name in ("Zygote", "Run", "socket")]
    """
    assert either.run(source).details["result"] == {"result": []}


LOST = {
    "stderr_gone": (
        "import sys; sys.stderr = None; raise ValueError('real')",
        "ValueError: real (main.py, line 2)",
    ),
    "stderr_raises": (
        (
            "import sys\n"
            "    class Bad:\n"
            "        def write(self, text): raise SystemExit\n"
            "        flush = write\n"
            "    sys.stderr = sys.stdout = Bad(); raise ValueError('real')"
        ),
        "ValueError: real (main.py, line 6)",
    ),
    "items_raise": (
        "class D(dict):\n        def items(self): raise KeyError('real')\n    return D(a=1)",
        "KeyError: 'real' (main.py, line 3)",
    ),
    "str_exits": (
        "class E(Exception):\n        def __str__(self): raise SystemExit\n    raise E",
        "E (main.py, line 4)",
    ),
    "str_is_odd": (
        (
            "class S(str):\n        def split(self, *_): raise SystemExit\n"
            "    class E(Exception):\n        def __str__(self): return S('real')\n    raise E"
        ),
        "E: real (main.py, line 6)",
    ),
    "name_raises": (
        (
            "class M(type):\n"
            "        __name__ = property(lambda self: 1 / 0)\n"
            "    class E(Exception, metaclass=M): pass\n"
            "    raise E('real')"
        ),
        "E: real",
    ),
    "class_raises": (
        (
            "class E(Exception):\n        __class__ = property(lambda self: 1 / 0)\n"
            "    raise E('real')"
        ),
        "E: real",
    ),
    "line_is_no_number": (
        "e = SyntaxError('real'); e.filename = 'x'; e.lineno = object(); raise e",
        "SyntaxError: real",
    ),
    "traceback_is_patched": (
        "import traceback; traceback.TracebackException = None; raise ValueError('real')",
        "ValueError: real",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_no_exception_is_lost(sandbox: Sandbox, name: str) -> None:
    body, message = LOST[name]
    outcome = sandbox.run(f"def handle(payload):\n    {body}")
    assert outcome.reason is StopReason.EXCEPTION, outcome
    assert outcome.message.startswith(message)
    assert outcome.logs.strip()


ODD_ENDS = {
    "result_exits": (
        "class D(dict):\n        def items(self): raise SystemExit(5)\n    return D(a=1)",
        StopReason.EXITED,
    ),
    "result_lies_about_its_class": (
        "class R:\n        __class__ = property(lambda self: 1 / 0)\n    return R()",
        StopReason.EXCEPTION,
    ),
    "not_json_without_a_word": (
        (
            "class E(TypeError):\n        def __str__(self): raise SystemExit\n"
            "    class D(dict):\n        def items(self): raise E\n    return D(a=1)"
        ),
        StopReason.NOT_JSON,
    ),
    "exit_code_is_huge": ("raise SystemExit(10 ** 5000)", StopReason.EXITED),
    "exit_code_raises": (
        "class E(SystemExit):\n        code = property(lambda self: 1 / 0)\n    raise E",
        StopReason.EXITED,
    ),
    "flush_exits": (
        (
            "import sys\n    class Bad:\n        def flush(self): raise SystemExit\n"
            "    sys.stdout = Bad(); return 1"
        ),
        StopReason.RETURNED,
    ),
}


@pytest.mark.parametrize("name", ODD_ENDS)
def test_no_end_is_lost(sandbox: Sandbox, name: str) -> None:
    body, reason = ODD_ENDS[name]
    outcome = sandbox.run(f"def handle(payload):\n    {body}")
    assert (outcome.reason, "exit code 70" in outcome.message) == (reason, False), outcome


@pytest.mark.parametrize(
    "source",
    [
        "def __getattr__(name): raise SystemExit(3)",
        "def __getattr__(name): raise KeyError(name)",
        (
            "class F:\n    __signature__ = property(lambda self: {}['real'])\n"
            "    def __call__(self, payload): ...\nhandle = F()"
        ),
    ],
)
def test_no_failure_of_an_import_is_lost(sandbox: Sandbox, source: str) -> None:
    outcome = sandbox.run(source, mode=Mode.VALIDATE)
    assert outcome.reason in (StopReason.IMPORT_FAILED, StopReason.EXITED), outcome
    assert "exit code 70" not in outcome.message


def test_traceback_reaches_the_log_past_a_replaced_stderr(sandbox: Sandbox) -> None:
    source = """
        import io, sys

        def handle(payload):
            print("before")
            sys.stderr = io.StringIO()
            raise ValueError("real")
    """
    logs = sandbox.run(source).logs
    assert logs.startswith("before\nTraceback")
    assert "ValueError: real" in logs
