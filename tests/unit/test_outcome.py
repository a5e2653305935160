"""Judging a job: what was observed first, what it reported last, and nothing believed."""

import json
import random
import signal
import struct
from dataclasses import replace
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import (
    Observed,
    Outcome,
    StopReason,
    max_report_bytes,
    read_outcome,
)
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import HEADER, Mode, ReportKind

LIMITS = Limits(wall_seconds=3, cpu_seconds=2, report_bytes=1000, log_written_bytes=5000)
MAX_MESSAGE_CHARS = 3000

# Every kind of value in place of the one that a field should hold.
WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**4000,
    "",
    "text\nof\x1b two lines",
    "x" * 100_000,
    [],
    [[]],
    {},
    {"result": {}},
]
FIELDS = ["result", "message", "file", "line", "bytes", "code", "names", "missing_module", "type"]


def frame(report: object) -> bytes:
    body = json.dumps(report).encode()
    return HEADER.pack(len(body)) + body


def seen(report: bytes = b"", **changes: Any) -> Observed:
    return replace(Observed(status=0, report=report, logs="printed"), **changes)


def judge(report: object, mode: Mode = Mode.EXECUTE) -> Outcome:
    return read_outcome(seen(frame(report), has_begun=mode is not Mode.PROBE), LIMITS, mode)


def check_form(outcome: Outcome, mode: Mode) -> None:
    """What holds of every outcome, whatever was reported."""
    assert isinstance(outcome.details, dict)
    assert len(outcome.message) <= MAX_MESSAGE_CHARS
    assert len(outcome.message.splitlines()) <= 1
    assert (outcome.reason is StopReason.RETURNED) == (outcome.message == "")
    if outcome.reason is StopReason.RETURNED and mode is Mode.EXECUTE:
        assert isinstance(outcome.details["result"], dict)
    json.dumps(outcome.details, allow_nan=False)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("kind", ReportKind)
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_a_wrong_type_gets_anywhere(mode: Mode, kind: ReportKind, field: str) -> None:
    honest = {"kind": kind, "message": "Error: no", "file": "main.py", "line": 3, "bytes": 2000}
    for value in WRONG:
        report = {**honest, field: value}
        body = frame(report)
        limits = replace(LIMITS, report_bytes=10 * len(body))
        check_form(read_outcome(seen(body), limits, mode), mode)


@pytest.mark.parametrize(
    ("report", "reason", "message"),
    [
        ({"kind": "returned", "result": {"a": 1}}, StopReason.RETURNED, ""),
        ({"kind": "returned", "result": {}}, StopReason.RETURNED, ""),
        ({"kind": "returned"}, StopReason.NOT_JSON, "The result is not valid JSON: no object."),
        ({"kind": "returned", "result": [1]}, StopReason.NOT_JSON, "no object"),
        ({"kind": "returned", "result": None}, StopReason.NOT_JSON, "no object"),
        ({"kind": "not_json", "message": "a set"}, StopReason.NOT_JSON, "not valid JSON: a set."),
        (
            {"kind": "exception", "message": "E: a\n b", "file": "m.py", "line": 7},
            StopReason.EXCEPTION,
            "E: a b (m.py, line 7)",
        ),
        ({"kind": "exception", "message": "E", "file": "m.py"}, StopReason.EXCEPTION, "E"),
        ({"kind": "import_failed", "message": "no"}, StopReason.IMPORT_FAILED, "no"),
        ({"kind": "output_too_large", "bytes": 1234}, StopReason.OUTPUT_TOO_LARGE, "1,234 bytes"),
        ({"kind": "output_too_large"}, StopReason.OUTPUT_TOO_LARGE, "is too large"),
        ({"kind": "out_of_memory"}, StopReason.OUT_OF_MEMORY, "more than 256 MB"),
        ({"kind": "exited", "code": 3}, StopReason.EXITED, "(exit code 3)"),
        ({"kind": "exited", "code": "3"}, StopReason.EXITED, "(exit code 1)"),
        ({"kind": "sandbox_failure", "message": "x"}, StopReason.NOT_JSON, "is not its own"),
        ({"kind": "probed"}, StopReason.NOT_JSON, "is not its own"),
    ],
)
def test_report_becomes_a_reason_and_a_sentence(
    report: dict[str, Any], reason: StopReason, message: str
) -> None:
    outcome = judge(report)
    assert outcome.reason is reason
    assert message in outcome.message
    check_form(outcome, Mode.EXECUTE)


BEFORE_AGENT_CODE = [
    (frame({"kind": "sandbox_failure", "message": "x"}), StopReason.SANDBOX_FAILURE, "failed (x)"),
    (b"", StopReason.SANDBOX_FAILURE, "set-up failed (exit code 0)"),
    (frame({"kind": "returned", "result": {}}), StopReason.NOT_JSON, "is not its own"),
]


@pytest.mark.parametrize(("report", "reason", "message"), BEFORE_AGENT_CODE)
def test_a_broken_sandbox_is_told_by_who_has_not_run_agent_code(
    report: bytes, reason: StopReason, message: str
) -> None:
    outcome = read_outcome(seen(report, has_begun=False), LIMITS, Mode.EXECUTE)
    assert outcome.reason is reason
    assert message in outcome.message


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (mode, kind)
        for mode in Mode
        for kind in (ReportKind.RETURNED, ReportKind.VALIDATED, ReportKind.PROBED)
    ],
)
def test_success_is_believed_only_in_the_words_of_what_was_asked(
    mode: Mode, kind: ReportKind
) -> None:
    asked = {
        Mode.EXECUTE: ReportKind.RETURNED,
        Mode.VALIDATE: ReportKind.VALIDATED,
        Mode.TEMPLATE: ReportKind.VALIDATED,
        Mode.PROBE: ReportKind.PROBED,
    }
    outcome = judge({"kind": kind, "result": {}}, mode)
    assert (outcome.reason is StopReason.RETURNED) == (asked[mode] == kind)
    check_form(outcome, mode)


GOOD = frame({"kind": "returned", "result": {}})


@pytest.mark.parametrize(
    "report",
    [
        GOOD[:3],
        GOOD[:4],
        GOOD[:-1],
        GOOD + b"x",
        GOOD + GOOD,
        HEADER.pack(0),
        HEADER.pack(2**32 - 1),
        HEADER.pack(1) + b"\xff",
        HEADER.pack(3) + b"NaN",
        frame(None),
        frame([]),
        frame("returned"),
        frame({}),
        frame({"kind": None}),
        frame({"kind": ["returned"]}),
        frame({"kind": {"returned": 1}}),
        frame({"kind": "RETURNED"}),
        frame({"kind": "cancelled"}),
        frame({"kind": "timeout"}),
        frame({"kind": "returned", "result": {"a": [[[[]]]] * 2}, "x": "\ud800"}),
        struct.pack("<I", len(GOOD) - 4) + GOOD[4:],
    ],
    ids=repr,
)
def test_what_is_not_one_whole_frame_of_known_form_is_no_result(report: bytes) -> None:
    outcome = read_outcome(seen(report), LIMITS, Mode.EXECUTE)
    assert outcome.reason is StopReason.NOT_JSON
    assert outcome.details == {}
    check_form(outcome, Mode.EXECUTE)


def test_report_over_the_limit_is_refused_unread() -> None:
    body = b'{"kind":"returned","result":{}}'
    for size, reason in (
        (max_report_bytes(LIMITS), StopReason.RETURNED),
        (max_report_bytes(LIMITS) + 1, StopReason.OUTPUT_TOO_LARGE),
    ):
        padded = body + b" " * (size - HEADER.size - len(body))
        report = HEADER.pack(len(padded)) + padded
        assert len(report) == size
        assert read_outcome(seen(report), LIMITS, Mode.EXECUTE).reason is reason


@pytest.mark.parametrize("code", [0, 1, 70, 255])
def test_silence_is_an_exit(code: int) -> None:
    outcome = read_outcome(seen(status=code << 8), LIMITS, Mode.EXECUTE)
    assert outcome.reason is StopReason.EXITED
    assert f"(exit code {code})" in outcome.message


OBSERVATIONS: list[tuple[dict[str, Any], StopReason, str]] = [
    ({"failure": "It broke."}, StopReason.SANDBOX_FAILURE, "It broke."),
    ({"is_cancelled": True}, StopReason.CANCELLED, "cancelled"),
    ({"is_timed_out": True}, StopReason.TIMEOUT, "longer than 3 s"),
    ({"is_log_flood": True}, StopReason.OUTPUT_TOO_LARGE, "more than 5,000 bytes"),
    ({"status": signal.SIGXCPU, "cpu_ms": 1100}, StopReason.CPU_LIMIT, "more than 2 s of CPU"),
    ({"status": signal.SIGXCPU, "cpu_ms": 50}, StopReason.KILLED_BY_SIGNAL, "signal SIGXCPU"),
    ({"status": signal.SIGKILL, "cpu_ms": 2000}, StopReason.CPU_LIMIT, "more than 2 s of CPU"),
    ({"status": signal.SIGKILL, "cpu_ms": 1999}, StopReason.KILLED_BY_SIGNAL, "SIGKILL"),
    ({"status": signal.SIGSEGV}, StopReason.KILLED_BY_SIGNAL, "SIGSEGV"),
    ({"status": signal.SIGSEGV | 0x80}, StopReason.KILLED_BY_SIGNAL, "SIGSEGV"),
    ({"status": 50}, StopReason.KILLED_BY_SIGNAL, "signal 50"),
]


@pytest.mark.parametrize(("changes", "reason", "message"), OBSERVATIONS)
@pytest.mark.parametrize("kind", [None, *ReportKind])
def test_observation_beats_any_report(
    changes: dict[str, Any], reason: StopReason, message: str, kind: ReportKind | None
) -> None:
    report = b"" if kind is None else frame({"kind": kind, "result": {}, "message": "lie"})
    outcome = read_outcome(seen(report, **changes), LIMITS, Mode.EXECUTE)
    assert outcome.reason is reason
    assert message in outcome.message
    assert outcome.details == {}


def test_a_cancel_beats_the_timeout_and_the_signal_that_it_causes() -> None:
    everything: dict[str, Any] = {
        "is_cancelled": True,
        "is_timed_out": True,
        "status": signal.SIGKILL,
    }
    outcome = read_outcome(seen(**everything), LIMITS, Mode.EXECUTE)
    assert outcome.reason is StopReason.CANCELLED


def test_logs_and_measures_are_the_trusted_sides_own() -> None:
    lie = {"kind": "returned", "result": {}, "logs": "lie", "duration_ms": 0, "cpu_ms": 0}
    outcome = read_outcome(
        seen(frame(lie), duration_ms=5, cpu_ms=6, max_rss_kb=7), LIMITS, Mode.EXECUTE
    )
    assert (outcome.logs, outcome.duration_ms, outcome.cpu_ms) == ("printed", 5, 6)
    assert outcome.max_rss_kb == 7


@pytest.mark.parametrize("seed", range(10))
def test_no_frame_whatever_breaks_the_reader(seed: int) -> None:
    chance = random.Random(seed)
    values: list[Any] = [*ReportKind, *WRONG, "kind", "result"]
    for _ in range(300):
        report = {
            chance.choice(["kind", *FIELDS]): chance.choice(values)
            for _ in range(chance.randrange(6))
        }
        if chance.random() < 0.8:
            report["kind"] = chance.choice(list(ReportKind))
        data = bytearray(frame(report)[:4000])
        if chance.random() < 0.5:
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        mode = chance.choice(list(Mode))
        status = chance.choice([None, 0, chance.randrange(1 << 16)])
        check_form(read_outcome(seen(bytes(data), status=status), LIMITS, mode), mode)
