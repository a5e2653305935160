"""The runner: imports the entrypoint, calls it, reports what came of it.

Runs in the child, inside all layers. The agent's code shares this address space, so all that is
written here can be forged by the agent, and the server takes it as such.
"""

import errno
import importlib
import inspect
import json
import mmap
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
    mark_begun,
    read_to_end,
)

_MAX_TEXT = 2000
# Given back when memory runs out: to say so takes some. It counts as data and, as nobody writes to
# it, takes no memory.
_reserve = [mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)]

# Agent code shares the modules and may have replaced what stands in them.
_dumps, _loads, _pack, _write = json.dumps, json.loads, HEADER.pack, os.write
# The name in the type itself: a metaclass can make its attribute raise.
_type_name: Callable[[type], str] = type.__dict__["__name__"].__get__


class _Failed(Exception):
    """The job ended; the arguments are what to report."""

    def __init__(self, kind: ReportKind, message: str, **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = {"message": message[:_MAX_TEXT], **details}


def run(job: Job) -> None:
    """Carry the job out and report. The frame is the last thing written."""
    mark_begun(JOB_FD)
    body = _carry_out(job)
    _flush_streams()
    _write_frame(body)


def _carry_out(job: Job) -> bytes:
    try:
        payload = _guarded(job, _read_payload)
        _forget_ourselves()
        return _validate(job) if job.mode is Mode.VALIDATE else _execute(job, payload)
    except _Failed as failure:
        return _encode_failure(failure)
    except BaseException:  # noqa: BLE001 - a signal handler of the agent's, or a patched module
        return _encode_failure(_Failed(ReportKind.EXCEPTION, "the agent disturbed its own end"))


def import_ahead(job: Job, why_unfit: Callable[[], str]) -> Callable[[Any], Any] | None:
    """Import the entrypoint for runs to come and report how that went; None where it cannot serve.

    `why_unfit` tells, after the import, what of it must not be cloned, "" if nothing.
    """
    mark_begun(JOB_FD)
    function = None
    try:
        _guarded(job, _read_payload)
        _forget_ourselves()
        loaded = _load_checked(job)
        reason = why_unfit()
        if reason:
            body = _encode({"kind": ReportKind.UNFIT, "message": reason[:_MAX_TEXT]})
        else:
            function, body = loaded, _encode({"kind": ReportKind.VALIDATED})
    except _Failed as failure:
        body = _encode_failure(failure)
    except BaseException:  # noqa: BLE001 - as in `_carry_out`
        body = _encode_failure(_Failed(ReportKind.IMPORT_FAILED, "the agent disturbed its import"))
    _flush_streams()
    _write_frame(body)
    os.close(REPORT_FD)
    return function


def run_imported(job: Job, function: Callable[[Any], Any]) -> None:
    """Carry out a job in a process that has imported its entrypoint, and report."""
    mark_begun(JOB_FD)
    try:
        payload = _guarded(job, _read_payload)
        body = _called(job, function, payload)
    except _Failed as failure:
        body = _encode_failure(failure)
    except BaseException:  # noqa: BLE001 - as in `_carry_out`
        body = _encode_failure(_Failed(ReportKind.EXCEPTION, "the agent disturbed its own end"))
    _flush_streams()
    _write_frame(body)


def _encode_failure(failure: _Failed) -> bytes:
    try:
        return _encode({"kind": failure.kind, **failure.details})
    except BaseException:  # noqa: BLE001 - an agent's exception may hold anything for a line number
        return _encode({"kind": failure.kind, "message": failure.details["message"]})


def report(kind: ReportKind, **details: Any) -> None:
    """Write the one frame of a job that never came to agent code."""
    _write_frame(_encode({"kind": kind, **details}))


def _encode(message: dict[str, Any]) -> bytes:
    return _dumps(message, ensure_ascii=False).encode("utf-8", "replace")


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
    _load_checked(job)
    return _encode({"kind": ReportKind.VALIDATED})


def _load_checked(job: Job) -> Callable[[Any], Any]:
    function = _load(job)
    _guarded(job, lambda: _check_signature(job.entrypoint, function), kind=ReportKind.IMPORT_FAILED)
    return function


def _check_signature(entrypoint: str, function: Callable[[Any], Any]) -> None:
    try:
        inspect.signature(function).bind({})
    except TypeError as exc:
        raise _Failed(
            ReportKind.IMPORT_FAILED,
            f"{entrypoint} must take one argument, the payload ({_text_of(exc)})",
        ) from exc
    except ValueError:
        pass  # No signature to be had (a builtin): the first execution will tell.


def _execute(job: Job, payload: bytes) -> bytes:
    return _called(job, _load(job), payload)


def _called(job: Job, function: Callable[[Any], Any], payload: bytes) -> bytes:
    result = _guarded(job, lambda: _call(function, _loads(payload)))
    # Guarded too: a class of the agent's own may iterate as it likes.
    text = _guarded(job, lambda: _result_json(result, job.limits.report_bytes))
    return b'{"kind":"%s","result":%s}' % (ReportKind.RETURNED.encode(), text)


def _load(job: Job) -> Callable[[Any], Any]:
    sys.path.insert(0, job.code_dir)
    sys.dont_write_bytecode = True
    return _guarded(  # type: ignore[no-any-return]
        job, lambda: _find(job.entrypoint), kind=ReportKind.IMPORT_FAILED
    )


def _find(entrypoint: str) -> Any:
    module_name, _, function_name = entrypoint.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if function is None:
        raise _Failed(
            ReportKind.IMPORT_FAILED,
            f"the module {module_name} has no function {function_name}",
            names=_public_functions(module)[:20],
        )
    if not callable(function):
        raise _Failed(ReportKind.IMPORT_FAILED, f"{entrypoint} is not callable")
    return function


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
    except _Failed:
        raise
    except MemoryError as exc:
        raise _out_of_memory() from exc
    except SystemExit as exc:
        raise _Failed(ReportKind.EXITED, "", code=_exit_code(exc)) from exc
    except BaseException as exc:  # an edge: this is where agent code ends
        if type(exc) is OSError and exc.errno == errno.ENOMEM:  # mmap(2) and others tell it so
            raise _out_of_memory() from exc
        where = _print_traceback(exc, job.code_dir)
        raise _Failed(
            kind, _one_line(exc), type=_type_name(type(exc)), **where, **_missing(exc)
        ) from exc


def _out_of_memory() -> _Failed:
    while _reserve:
        _reserve.pop().close()
    return _Failed(ReportKind.OUT_OF_MEMORY, "the agent ran out of memory")


def _is_a(value: object, kind: type) -> bool:
    """Tell what a value is; isinstance() asks its `__class__`, which an agent can make raise."""
    return issubclass(type(value), kind)


def _exit_code(exc: SystemExit) -> int:
    try:
        code = exc.code
        if code is None:
            return 0
        number = int.__int__(code) if _is_a(code, int) else 1  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - `code` may be a property of the agent's
        return 1
    return number if abs(number) < 2**31 else 1


def _one_line(exc: BaseException) -> str:
    name, text = _type_name(type(exc)), _text_of(exc)
    return f"{name}: {text}"[:_MAX_TEXT] if text else name


def _text_of(exc: BaseException) -> str:
    """Return an exception's text in one line, "" where it has none."""
    try:
        # A SyntaxError's str() ends in its file and line, which are reported beside it.
        said = exc.msg if _is_a(exc, SyntaxError) else exc  # type: ignore[attr-defined]
        return " ".join(str.split(str(said)))
    except BaseException:  # noqa: BLE001 - the agent's own __str__
        return ""


def _missing(exc: BaseException) -> dict[str, Any]:
    """Name the module that an import did not find."""
    # Its own type alone: a subclass's `name` may be anything.
    if type(exc) is ModuleNotFoundError and type(exc.name) is str:
        return {"missing_module": exc.name[:_MAX_TEXT]}
    return {}


def _print_traceback(exc: BaseException, code_dir: str) -> dict[str, Any]:
    """Print the agent's frames to the log; return the innermost one as file and line.

    An exception that does not let itself be looked at is named there, without its frames.
    """
    try:
        text, where = _tell(exc, code_dir)
    except BaseException:  # noqa: BLE001 - the agent's own class, or its patched modules
        text, where = f"{_one_line(exc)}\n", {}
    _flush_streams()
    # Past sys.stderr, which the agent may have closed or replaced.
    try:
        _write_all(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # The descriptor is closed: there is no log any more.
    return where


def _tell(exc: BaseException, code_dir: str) -> tuple[str, dict[str, Any]]:
    told = traceback.TracebackException.from_exception(exc, compact=True)
    _keep_agent_frames(told, code_dir + os.sep)
    text = "".join(told.format())
    if isinstance(exc, SyntaxError) and exc.filename and exc.lineno:
        return text, {"file": exc.filename.removeprefix(code_dir + os.sep), "line": exc.lineno}
    if told.stack:
        return text, {"file": told.stack[-1].filename, "line": told.stack[-1].lineno}
    return text, {}


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


def _result_json(result: Any, max_bytes: int) -> bytes:
    """Write the result as a JSON object of at most `max_bytes`."""
    value = result if _is_a(result, dict) else {"result": result}
    try:
        text = _dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except RecursionError as exc:
        raise _Failed(ReportKind.NOT_JSON, "it is nested too deeply") from exc
    except MemoryError as exc:
        raise _out_of_memory() from exc
    except UnicodeEncodeError as exc:
        raise _Failed(ReportKind.NOT_JSON, "a text holds half of a surrogate pair") from exc
    except (TypeError, ValueError) as exc:
        raise _Failed(ReportKind.NOT_JSON, _text_of(exc)) from exc
    if len(text) > max_bytes:
        raise _Failed(ReportKind.OUTPUT_TOO_LARGE, "", bytes=len(text))
    return text


def _flush_streams() -> None:
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:  # noqa: BLE001, S110 - the agent may have closed or replaced it
            pass


def _write_frame(body: bytes) -> None:
    _write_all(REPORT_FD, _pack(len(body)) + body)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[_write(fd, view) :]
