"""The runner: imports the entrypoint, calls it, reports what came of it.

Runs in the child, inside all layers. The agent's code shares this address space, so all that is
written here can be forged by the agent, and the server takes it as such.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from anymind_lite.sandbox.protocol import (
    HEADER,
    JOB_FD,
    REPORT_FD,
    Job,
    Mode,
    ReportKind,
    read_to_end,
)

_MAX_TEXT = 2000


class _Failed(Exception):
    """The job ended; the arguments are what to report."""

    def __init__(self, kind: ReportKind, message: str, **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = {"message": message[:_MAX_TEXT], **details}


def run(job: Job) -> None:
    """Carry the job out and report. The frame is the last thing written."""
    payload = _read_payload()
    _forget_ourselves()
    try:
        body = _validate(job) if job.mode is Mode.VALIDATE else _execute(job, payload)
    except _Failed as failure:
        body = _encode({"kind": failure.kind, **failure.details})
    _flush_streams()
    _write_frame(body)


def report(kind: ReportKind, **details: Any) -> None:
    """Write the one frame of a job that never came to agent code."""
    _write_frame(_encode({"kind": kind, **details}))


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")


def _read_payload() -> bytes:
    payload = read_to_end(JOB_FD)
    os.close(JOB_FD)
    return payload


def _forget_ourselves() -> None:
    """Make the sandbox's own modules unimportable; those running keep their names bound."""
    for name in [name for name in sys.modules if name.split(".")[0] == "anymind_lite"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")


def _validate(job: Job) -> bytes:
    function = _load(job)
    import inspect

    try:
        inspect.signature(function).bind({})
    except TypeError as exc:
        raise _Failed(
            ReportKind.IMPORT_FAILED,
            f"{job.entrypoint} must take one argument, the payload ({exc})",
        ) from exc
    except ValueError:
        pass  # No signature to be had (a builtin): the first execution will tell.
    return _encode({"kind": ReportKind.VALIDATED})


def _execute(job: Job, payload: bytes) -> bytes:
    function = _load(job)
    result = _guarded(job, lambda: _call(function, json.loads(payload)))
    value = result if isinstance(result, dict) else {"result": result}
    text = _result_json(value, job.limits.report_bytes)
    return b'{"kind":"%s","result":%s}' % (ReportKind.RETURNED.encode(), text)


def _load(job: Job) -> Callable[[Any], Any]:
    module_name, _, function_name = job.entrypoint.partition(":")
    sys.path.insert(0, job.code_dir)
    sys.dont_write_bytecode = True
    module = _guarded(
        job, lambda: importlib.import_module(module_name), kind=ReportKind.IMPORT_FAILED
    )
    function = getattr(module, function_name, None)
    if function is None:
        raise _Failed(
            ReportKind.IMPORT_FAILED,
            f"the module {module_name} has no function {function_name}",
            names=_public_functions(module)[:20],
        )
    if not callable(function):
        raise _Failed(ReportKind.IMPORT_FAILED, f"{job.entrypoint} is not callable")
    return function  # type: ignore[no-any-return]


def _public_functions(module: types.ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
    ]


def _call(function: Callable[[Any], Any], payload: Any) -> Any:
    result = function(payload)
    if isinstance(result, types.CoroutineType):
        import asyncio

        return asyncio.run(result)
    return result


def _guarded(job: Job, action: Callable[[], Any], kind: ReportKind = ReportKind.EXCEPTION) -> Any:
    """Run agent code; turn whatever it raises into a report, the traceback into the log."""
    try:
        return action()
    except MemoryError as exc:
        raise _Failed(ReportKind.OUT_OF_MEMORY, "the agent ran out of memory") from exc
    except SystemExit as exc:
        raise _Failed(ReportKind.EXITED, "", code=_exit_code(exc)) from exc
    except BaseException as exc:  # an edge: this is where agent code ends
        where = _print_traceback(exc, job.code_dir)
        raise _Failed(
            kind, _one_line(exc), type=type(exc).__name__, **where, **_missing(exc)
        ) from exc


def _exit_code(exc: SystemExit) -> int:
    if exc.code is None:
        return 0
    return exc.code if isinstance(exc.code, int) else 1


def _one_line(exc: BaseException) -> str:
    try:
        # A SyntaxError's str() ends in its file and line, which are reported beside it.
        text = " ".join(str(exc.msg if isinstance(exc, SyntaxError) else exc).split())
    except Exception:  # noqa: BLE001 - the agent's own __str__
        text = ""
    return f"{type(exc).__name__}: {text}"[:_MAX_TEXT] if text else type(exc).__name__


def _missing(exc: BaseException) -> dict[str, Any]:
    """Name the module that an import did not find."""
    if isinstance(exc, ModuleNotFoundError) and isinstance(exc.name, str):
        return {"missing_module": exc.name[:_MAX_TEXT]}
    return {}


def _print_traceback(exc: BaseException, code_dir: str) -> dict[str, Any]:
    """Print the agent's frames to the log; return the innermost one as file and line."""
    told = traceback.TracebackException.from_exception(exc, compact=True)
    _keep_agent_frames(told, code_dir + os.sep)
    sys.stderr.write("".join(told.format()))
    if isinstance(exc, SyntaxError) and exc.filename and exc.lineno:
        return {"file": exc.filename.removeprefix(code_dir + os.sep), "line": exc.lineno}
    if told.stack:
        return {"file": told.stack[-1].filename, "line": told.stack[-1].lineno}
    return {}


def _keep_agent_frames(told: traceback.TracebackException, prefix: str) -> None:
    """Drop our frames and the library's; name files relative to the agent's root."""
    waiting: list[traceback.TracebackException | None] = [told]
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        frames = [frame for frame in one.stack if frame.filename.startswith(prefix)]
        for frame in frames:
            frame.line  # noqa: B018 - reads the source line while the path is still whole
            frame.filename = frame.filename.removeprefix(prefix)
        one.stack = traceback.StackSummary.from_list(frames)
        if getattr(one, "filename", None):  # of a SyntaxError
            one.filename = one.filename.removeprefix(prefix)
        waiting += [one.__cause__, one.__context__, *(one.exceptions or ())]


def _result_json(value: dict[Any, Any], max_bytes: int) -> bytes:
    """Write the result as JSON of at most `max_bytes`."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except RecursionError as exc:
        raise _Failed(ReportKind.NOT_JSON, "it is nested too deeply") from exc
    except MemoryError as exc:
        raise _Failed(ReportKind.OUT_OF_MEMORY, "the result did not fit into memory") from exc
    except UnicodeEncodeError as exc:
        raise _Failed(ReportKind.NOT_JSON, "a text holds half of a surrogate pair") from exc
    except (TypeError, ValueError) as exc:
        raise _Failed(ReportKind.NOT_JSON, str(exc)) from exc
    if len(text) > max_bytes:
        raise _Failed(ReportKind.OUTPUT_TOO_LARGE, "", bytes=len(text))
    return text


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        # The agent may have closed or replaced it.
        with contextlib.suppress(Exception):
            stream.flush()


def _write_frame(body: bytes) -> None:
    view = memoryview(HEADER.pack(len(body)) + body)
    while view:
        view = view[os.write(REPORT_FD, view) :]
