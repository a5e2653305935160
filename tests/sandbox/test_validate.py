"""Importing an entrypoint in the sandbox, and what is said when it fails."""

from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.protocol import Mode
from tests.sandbox.conftest import Sandbox


def test_accepts_a_function_of_one_argument(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def handle(payload): return 1 / 0", mode=Mode.VALIDATE)
    assert outcome.reason is StopReason.RETURNED


def test_names_the_missing_module(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import numpie.linalg\ndef handle(p): ...", mode=Mode.VALIDATE)
    assert outcome.reason is StopReason.IMPORT_FAILED
    assert outcome.details["missing_module"] == "numpie"
    assert outcome.message.endswith("(main.py, line 1)")


def test_names_the_line_of_a_syntax_error(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def handle(payload):\n    return (\n", mode=Mode.VALIDATE)
    assert outcome.reason is StopReason.IMPORT_FAILED
    assert outcome.message == "SyntaxError: '(' was never closed (main.py, line 2)"
    assert 'File "main.py", line 2' in outcome.logs


def test_names_the_functions_there_are(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def run(p): ...\ndef _hidden(): ...", mode=Mode.VALIDATE)
    assert outcome.message == "the module main has no function handle"
    assert outcome.details["names"] == ["run"]


def test_refuses_what_cannot_be_called(sandbox: Sandbox) -> None:
    outcome = sandbox.run("handle = 3", mode=Mode.VALIDATE)
    assert outcome.message == "main:handle is not callable"


def test_refuses_a_function_that_cannot_take_the_payload(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def handle(): ...", mode=Mode.VALIDATE)
    assert outcome.reason is StopReason.IMPORT_FAILED
    assert "must take one argument" in outcome.message


def test_finds_an_entrypoint_in_a_package(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "",
        mode=Mode.VALIDATE,
        entrypoint="agent.main:handle",
        files={
            "agent/main.py": "from agent import other\ndef handle(p): ...",
            "agent/other.py": "",
        },
    )
    assert outcome.reason is StopReason.RETURNED


def test_ends_an_endless_import(sandbox: Sandbox) -> None:
    outcome = sandbox.run("while True: pass", mode=Mode.VALIDATE, wall_seconds=0.5)
    assert outcome.reason is StopReason.TIMEOUT


def test_keeps_what_an_import_prints(sandbox: Sandbox) -> None:
    outcome = sandbox.run("print('hello')\ndef handle(p): ...", mode=Mode.VALIDATE)
    assert outcome.logs == "hello\n"
