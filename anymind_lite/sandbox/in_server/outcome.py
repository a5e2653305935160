"""What came of a job: the one place that reads what a child wrote.

Runs in the server. The report is hostile: it can decide what the *result* is and nothing else.
Whether the job ran too long, was killed or left without a word is the trusted side's own
observation, and it wins.
"""

import signal
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from anymind_lite.sandbox.policy import MEGABYTE, Limits, Tier
from anymind_lite.sandbox.protocol import HEADER, Mode, ReportKind
from anymind_lite.strict_json import StrictJsonError, parse_json

_MAX_MESSAGE_CHARS = 1000
_UNNAMED = "The agent failed without saying why"
# The frame wraps the result in its own object, and JSON escapes may lengthen what was counted.
_FRAME_MARGIN_BYTES = 64 * 1024
# Of a CPU limit, what must have been used for SIGXCPU to be the kernel's: it counts whole ticks for
# whoever runs at one, on a busy machine up to twice what it tells afterwards.
_TICK_TOLERANCE = 0.5


class StopReason(StrEnum):
    """Why a job ended; a closed list.

    SERVER_ENDED is for the server to say: to the sandbox it looks like a cancel, or a failure.
    UNFIT is for templates alone.
    """

    RETURNED = "returned"
    EXCEPTION = "exception"
    IMPORT_FAILED = "import_failed"
    UNFIT = "unfit"
    NOT_JSON = "not_json"
    OUTPUT_TOO_LARGE = "output_too_large"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CPU_LIMIT = "cpu_limit"
    EXITED = "exited"
    KILLED_BY_SIGNAL = "killed_by_signal"
    CANCELLED = "cancelled"
    SANDBOX_FAILURE = "sandbox_failure"
    SERVER_ENDED = "server_ended"


@dataclass(frozen=True)
class Observed:
    """What the trusted side saw of a job.

    `status` is a wait status (waitpid(2)), None when the zygote could not tell. `report` is what
    the child wrote, cut at one byte more than is accepted; `has_begun` tells that agent code may
    have written it, as every layer stood.
    """

    status: int | None
    report: bytes
    logs: str
    has_begun: bool = True
    is_timed_out: bool = False
    is_cancelled: bool = False
    is_log_flood: bool = False
    scratch_fault: str = ""
    is_out_of_memory: bool = False
    failure: str = ""
    cpu_ms: int = 0
    max_rss_kb: int = 0
    duration_ms: int = 0
    start_ms: float | None = None
    wall_ms: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    `details` is the child's report where `reason` rests on it: `result` for an execution that
    returned. `message` is one sentence for the agent's owner, empty when it returned. `tier` and
    `layers` are the walls that stood around the job; None where it never came to a child. `is_warm`
    tells that its code had been imported before, in a template. `start_ms` passed until there was a
    process for it, `wall_ms` from then on.
    """

    reason: StopReason
    message: str
    logs: str
    duration_ms: int
    cpu_ms: int = 0
    max_rss_kb: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    tier: Tier | None = None
    layers: tuple[str, ...] = ()
    is_warm: bool = False
    start_ms: float | None = None
    wall_ms: float | None = None


def max_report_bytes(limits: Limits) -> int:
    """Return how many bytes of a report are accepted, length prefix included."""
    return HEADER.size + limits.report_bytes + _FRAME_MARGIN_BYTES


def read_outcome(seen: Observed, limits: Limits, mode: Mode) -> Outcome:
    """Judge a job by what was observed first and by what it reported last.

    An execution that returned has an object as `details["result"]`.
    """
    reason, message, details = _judge(seen, limits, mode)
    return Outcome(
        reason=reason,
        message=message,
        logs=seen.logs,
        duration_ms=seen.duration_ms,
        cpu_ms=seen.cpu_ms,
        max_rss_kb=seen.max_rss_kb,
        start_ms=seen.start_ms,
        wall_ms=seen.wall_ms,
        details=details,
    )


# What a child reports before it comes to agent code, and never after it.
_OURS = {ReportKind.PROBED, ReportKind.SANDBOX_FAILURE}

_Verdict = tuple[StopReason, str, dict[str, Any]]

# The one way in which each mode ends well: no other word of success is believed.
_SUCCESS = {
    Mode.EXECUTE: ReportKind.RETURNED,
    Mode.VALIDATE: ReportKind.VALIDATED,
    Mode.TEMPLATE: ReportKind.VALIDATED,
    Mode.PROBE: ReportKind.PROBED,
}


def _judge(seen: Observed, limits: Limits, mode: Mode) -> _Verdict:
    observed = _judge_by_observation(seen, limits)
    if observed is not None:
        return (*observed, {})
    try:
        report = _read_report(seen.report)
    except StrictJsonError as exc:
        return StopReason.NOT_JSON, f"The result is not valid JSON: {exc}.", {}
    if report is None:
        return (*_judge_silence(_exit_code(seen.status), seen.has_begun), {})
    kind = ReportKind(report["kind"])
    is_foreign = kind is ReportKind.UNFIT and mode is not Mode.TEMPLATE
    if is_foreign or (kind in _OURS) is seen.has_begun:
        return StopReason.NOT_JSON, "The result is not valid JSON: the report is not its own.", {}
    if kind is _SUCCESS[mode] and (mode is not Mode.EXECUTE or _has_object(report)):
        return StopReason.RETURNED, "", report
    return _judge_failure(kind, report, limits)


def _judge_silence(code: int, has_begun: bool) -> tuple[StopReason, str]:
    if has_begun:
        return StopReason.EXITED, _exit_message(code)
    return StopReason.SANDBOX_FAILURE, f"Sandbox set-up failed (exit code {code})."


def _has_object(report: dict[str, Any]) -> bool:
    return isinstance(report.get("result"), dict)


def _judge_by_observation(seen: Observed, limits: Limits) -> tuple[StopReason, str] | None:
    if seen.failure:
        return StopReason.SANDBOX_FAILURE, seen.failure
    if seen.is_cancelled:
        return StopReason.CANCELLED, "The execution was cancelled."
    if seen.is_timed_out:
        return StopReason.TIMEOUT, f"The agent ran longer than {limits.wall_seconds:g} s."
    if len(seen.report) > max_report_bytes(limits):
        return StopReason.OUTPUT_TOO_LARGE, _too_large({}, limits)
    if seen.is_log_flood:
        written = limits.log_written_bytes
        return StopReason.OUTPUT_TOO_LARGE, f"The agent printed more than {written:,} bytes."
    if seen.is_out_of_memory:
        return StopReason.OUT_OF_MEMORY, _out_of_memory(limits)
    if seen.scratch_fault:
        return StopReason.OUTPUT_TOO_LARGE, seen.scratch_fault
    if seen.status is not None and seen.status & 0x7F:
        return _judge_signal(seen.status & 0x7F, seen, limits)
    return None


def _out_of_memory(limits: Limits) -> str:
    return f"The agent needed more than {limits.data_bytes // MEGABYTE} MB of memory."


def _judge_signal(number: int, seen: Observed, limits: Limits) -> tuple[StopReason, str]:
    if _has_used_up_cpu(number, seen.cpu_ms, limits.cpu_seconds * 1000):
        return StopReason.CPU_LIMIT, f"The agent used more than {limits.cpu_seconds} s of CPU time."
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    return StopReason.KILLED_BY_SIGNAL, f"The agent's process was ended by signal {name}."


def _has_used_up_cpu(number: int, cpu_ms: int, limit_ms: int) -> bool:
    """Tell the kernel's signals for a CPU limit from those that an agent sends itself.

    SIGXCPU comes at the limit by the kernel's ticks; SIGKILL comes a second later.
    """
    if number == signal.SIGXCPU:
        return cpu_ms >= limit_ms * _TICK_TOLERANCE
    return number == signal.SIGKILL and cpu_ms >= limit_ms


def _exit_code(status: int | None) -> int:
    return 0 if status is None else (status >> 8) & 0xFF


def _exit_message(code: int) -> str:
    return f"The agent's process ended (exit code {code}) before it returned a result."


def _read_report(data: bytes) -> dict[str, Any] | None:
    """Read exactly one frame; None when nothing was written. Raises StrictJsonError."""
    if not data:
        return None
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != len(data) - HEADER.size:
        raise StrictJsonError("the report is not one whole frame")
    value = parse_json(data[HEADER.size :])
    if not isinstance(value, dict) or value.get("kind") not in list(ReportKind):
        raise StrictJsonError("the report has an unknown form")
    return value


def _judge_failure(kind: ReportKind, report: dict[str, Any], limits: Limits) -> _Verdict:
    text = one_line(report.get("message"))
    match kind:
        case ReportKind.EXCEPTION:
            return StopReason.EXCEPTION, (text or _UNNAMED) + _place(report), report
        case ReportKind.IMPORT_FAILED:
            return StopReason.IMPORT_FAILED, (text or _UNNAMED) + _place(report), report
        case ReportKind.UNFIT:
            return StopReason.UNFIT, text or _UNNAMED, {}
        case ReportKind.OUTPUT_TOO_LARGE:
            return StopReason.OUTPUT_TOO_LARGE, _too_large(report, limits), report
        case ReportKind.OUT_OF_MEMORY:
            return StopReason.OUT_OF_MEMORY, _out_of_memory(limits), {}
        case ReportKind.EXITED:
            code = _number(report.get("code"))
            return StopReason.EXITED, _exit_message(1 if code is None else code), {}
        case ReportKind.SANDBOX_FAILURE:
            return StopReason.SANDBOX_FAILURE, f"Sandbox set-up failed ({text}).", {}
        case _:
            return StopReason.NOT_JSON, f"The result is not valid JSON: {text or 'no object'}.", {}


def one_line(value: object) -> str:
    """Return a child's text as one printable line of bounded length; "" for anything but text.

    Control characters go: a terminal that shows the message would obey them.
    """
    if not isinstance(value, str):
        return ""
    line = " ".join(value.split())[:_MAX_MESSAGE_CHARS]
    return "".join(char for char in line if char.isprintable())


def _number(value: object) -> int | None:
    """Return a child's whole number if it is one of 64 bits: others would fill the message."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if abs(value) < 2**63 else None


def _place(report: dict[str, Any]) -> str:
    file, line = one_line(report.get("file")), _number(report.get("line"))
    return f" ({file}, line {line})" if file and line is not None else ""


def _too_large(report: dict[str, Any], limits: Limits) -> str:
    size = _number(report.get("bytes"))
    found = "too large" if size is None else f"{size:,} bytes"
    return f"The result is {found}; at most {limits.report_bytes:,} bytes are kept."
