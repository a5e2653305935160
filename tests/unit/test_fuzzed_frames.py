"""Generated frames, well formed and broken, at each reader of frames: nothing gets past it.

`ANYMIND_FUZZ_SECONDS=600` runs each for ten minutes. The strict JSON parser belongs to them.
"""

import json
import math
import os
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
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
from anymind_lite.sandbox.protocol import (
    HEADER,
    Job,
    Mode,
    Places,
    ReportKind,
    encode_job,
    read_job,
    read_to_end,
    receive_message,
)
from anymind_lite.strict_json import MAX_DEPTH, StrictJsonError, parse_json
from tests.fuzzing import fuzz, needs_hypothesis
from tests.processes import open_descriptors

needs_hypothesis()

from hypothesis import strategies as st  # noqa: E402 - after it is known to be there

pytestmark = pytest.mark.slow

LIMITS = Limits(report_bytes=4000)
MAX_MESSAGE_CHARS = 3000
# The CPU time of this thread, as a loaded machine is no failure.
MAX_SECONDS = 2.0
# A list of empty lists costs 64 bytes for three of JSON; walking it doubles that.
MAX_GROWTH = 60
MARGIN_BYTES = 200_000

# Values, and texts that are nearly JSON --------------------------------------------------------

WORDS = (
    *(kind.value for kind in ReportKind),
    *("kind", "result", "message", "file", "line", "bytes", "code"),
)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(WORDS)
odd_texts = st.text(max_size=20) | st.sampled_from(
    ["\ud800", "\x1b[2J", "a\nb", "\u2028", "x" * 5000]
)
huge_numbers = st.sampled_from([10**4299, -(10**4299), 2**63, 1e308])
numbers = st.integers() | st.floats() | huge_numbers
scalars = st.none() | st.booleans() | numbers | texts | odd_texts


def containers(children: Any) -> Any:
    return st.lists(children, max_size=4) | st.dictionaries(texts | odd_texts, children, max_size=4)


values = st.recursive(scalars, containers, max_leaves=12)
deep = (st.integers(1, 3 * MAX_DEPTH) | st.just(2000)).flatmap(
    lambda depth: st.sampled_from(["[", '{"a":']).map(
        lambda start: start * depth + "1" + ("]" if start == "[" else "}") * depth
    )
)


def written(value: Any, *, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


json_texts = st.builds(written, values, ascii_only=st.booleans()) | deep.map(str.encode)

# A change to bytes: cut here, drop so many, put this in.
changes = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.integers(0, 3),
        st.binary(max_size=3)
        | st.sampled_from([b'"', b"\\u", b"[", b"}", b"NaN", b"1e999", b",", b"\xff"]),
    ),
    max_size=3,
)


def changed(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, dropped, put_in in edits:
        at = place % (len(data) + 1)
        data = data[:at] + put_in + data[at + dropped :]
    return data


tokens = st.sampled_from(
    [
        *("1", "-0", "1e999", "-1e999", "1E400", "NaN", "Infinity", "-Infinity", "9" * 4301, "01"),
        *(
            '"a"',
            '"\\ud800"',
            '"\\ud83d\\udc4b"',
            '"\x00"',
            '"\\u12"',
            "null",
            "True",
            "[",
            "{}",
            "",
        ),
    ]
)
lists_of_tokens = st.lists(tokens, max_size=3).map(lambda made: f"[{','.join(made)}]".encode())
texts_near_json = (
    st.builds(changed, json_texts, st.just([]) | changes) | lists_of_tokens | st.binary(max_size=50)
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def check_strict(value: Any) -> None:
    """What a strict value is: JSON again, whole UTF-8, finite, not too deep."""
    again = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(again) == value
    assert depth_of(value) <= MAX_DEPTH


def check_sentence(message: str) -> None:
    assert message.isprintable()
    assert len(message) <= MAX_MESSAGE_CHARS


@contextmanager
def bounded_time() -> Iterator[None]:
    started = time.thread_time()
    yield
    assert time.thread_time() - started < MAX_SECONDS


def peak_of(read: Any) -> int:
    """Return the most bytes that Python had allocated meanwhile."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Strict JSON -------------------------------------------------------------------------------------


def check_parser(text: bytes) -> None:
    try:
        with bounded_time():
            value = parse_json(text)
    except StrictJsonError as exc:
        check_sentence(str(exc))
        return
    check_strict(value)
    assert json.loads(text) == value


def test_parser_reads_strict_json_or_says_why_not() -> None:
    assert fuzz(texts_near_json, check_parser) > 100


def check_agreement(value: Any) -> None:
    text = written(value, ascii_only=False)
    assert parse_json(text) == value
    assert parse_json(written(value, ascii_only=True)) == value


def test_parser_takes_every_value_that_is_strict() -> None:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    plain = st.none() | st.booleans() | st.integers() | finite | texts
    strict = st.recursive(plain, lambda below: st.lists(below) | st.dictionaries(texts, below))
    assert fuzz(strict, check_agreement) > 100


pieces = st.sampled_from(
    ["[]", "{}", "0", '""', "[[]]", '{"a":{}}', "1e5", '"\\u00e9"', "null", "9" * 4300]
)


def check_growth(piece: str) -> None:
    text = f"[{','.join([piece] * (60_000 // len(piece)))}]".encode()
    assert peak_of(lambda: parse_json(text)) < MAX_GROWTH * len(text) + MARGIN_BYTES
    with bounded_time():
        parse_json(text)


def test_parser_needs_memory_and_time_in_proportion() -> None:
    check_growth("[]")
    assert (
        fuzz(pieces | json_texts.map(lambda text: text.decode("utf-8", "replace")), try_growth) > 5
    )


def try_growth(piece: str) -> None:
    try:
        check_growth(piece)
    except StrictJsonError:
        pass  # refused, which is bounded too


# Reports -----------------------------------------------------------------------------------------

FIELDS_OF_FAILURES = ("message", "file", "line", "bytes", "code", "names", "missing_module")
reports = st.fixed_dictionaries(
    {"kind": st.sampled_from(list(ReportKind)) | values},
    optional={
        "result": st.dictionaries(texts, values, max_size=3) | values,
        **dict.fromkeys(FIELDS_OF_FAILURES, odd_texts | numbers | values),
    },
)
bodies = st.builds(written, reports, ascii_only=st.booleans()) | texts_near_json
lengths = st.just(0) | st.integers(-5, 5) | st.integers(-(2**32), 2**32)


def framed(body: bytes, off: int, edits: list[tuple[int, int, bytes]], tail: bytes) -> bytes:
    return changed(HEADER.pack((len(body) + off) % 2**32) + body, edits) + tail


frames = bodies.map(lambda body: HEADER.pack(len(body)) + body) | st.builds(
    framed, bodies, lengths, st.just([]) | changes, st.just(b"") | st.binary(max_size=5) | bodies
)
rarely = st.sampled_from([False] * 9 + [True])
good_bodies = st.sampled_from([{}, {"a": 1}, {"a": "é"}]).map(
    lambda result: written({"kind": ReportKind.RETURNED, "result": result}, ascii_only=True)
)
nearly_good = st.builds(
    framed, good_bodies, lengths, st.just([]) | changes, st.sampled_from([b"", b" ", b"{}"])
)
observations = st.builds(
    Observed,
    status=st.sampled_from([0, 0, 0, None, 1 << 8, 9, 24]) | st.integers(0, 0xFFFF),
    report=frames | nearly_good,
    logs=st.just(""),
    is_timed_out=rarely,
    is_cancelled=rarely,
    is_log_flood=rarely,
    cpu_ms=st.integers(0, 2**40),
)
ENDS_WELL = {
    Mode.EXECUTE: ReportKind.RETURNED,
    Mode.VALIDATE: ReportKind.VALIDATED,
    Mode.TEMPLATE: ReportKind.VALIDATED,
    Mode.PROBE: ReportKind.PROBED,
}


def check_outcome(case: tuple[Observed, Mode]) -> None:
    seen, mode = case
    with bounded_time():
        outcome = read_outcome(seen, LIMITS, mode)
    check_sentence(outcome.message)
    check_strict(outcome.details)
    assert (outcome.reason is StopReason.RETURNED) == (outcome.message == "")
    if outcome.reason is StopReason.RETURNED:
        check_returned(seen, outcome, mode)


def check_returned(seen: Observed, outcome: Outcome, mode: Mode) -> None:
    """Hold the word against the bytes, read by nothing of the product."""
    assert True not in (seen.is_timed_out, seen.is_cancelled, seen.is_log_flood)
    assert not (seen.status or 0) & 0x7F
    assert len(seen.report) <= max_report_bytes(LIMITS)
    assert int.from_bytes(seen.report[:4]) == len(seen.report) - 4
    report = json.loads(seen.report[4:].decode("utf-8"), parse_constant=refuse)
    assert report["kind"] == ENDS_WELL[mode]
    assert outcome.details == report
    assert mode is not Mode.EXECUTE or isinstance(report["result"], dict)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} was read")


def test_no_report_gets_more_than_its_own_result() -> None:
    assert fuzz(st.tuples(observations, st.sampled_from(list(Mode))), check_outcome) > 100


nasty = huge_numbers | st.sampled_from([True, "", "main.py", "\x1b[2J", "x" * 5000, "a\n\u2028b"])
failures = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(list(ReportKind)),
        **dict.fromkeys(FIELDS_OF_FAILURES, nasty | odd_texts | st.integers()),
    }
)


def check_failure(case: tuple[dict[str, Any], Mode]) -> None:
    report, mode = case
    text = written(report, ascii_only=True)
    seen = Observed(status=0, report=HEADER.pack(len(text)) + text, logs="")
    check_outcome((seen, mode))


def test_no_failure_says_more_than_a_line() -> None:
    assert fuzz(st.tuples(failures, st.sampled_from(list(Mode))), check_failure) > 100


def check_nearly_good(report: bytes) -> None:
    check_outcome((Observed(status=0, report=report, logs=""), Mode.EXECUTE))


def test_nothing_but_one_whole_frame_is_a_result() -> None:
    assert fuzz(nearly_good, check_nearly_good) > 100


def check_largest(body: bytes) -> None:
    """Blow a report up to the very limit, and one byte over it."""
    limits = Limits()
    room = max_report_bytes(limits) - HEADER.size
    full = body.ljust(room) if len(body) <= room else body[:room]
    for size in (room, room + 1):
        seen = Observed(status=0, report=HEADER.pack(size) + full.ljust(size), logs="")
        with bounded_time():
            outcome = read_outcome(seen, limits, Mode.EXECUTE)
        assert size == room or outcome.reason is StopReason.OUTPUT_TOO_LARGE


def test_reports_of_the_largest_size_are_read_in_bounded_time() -> None:
    large = st.tuples(pieces | texts.map(json.dumps), st.integers(1, 400_000)).map(
        lambda made: (
            b'{"kind":"returned","result":{"a":[%s]}}'
            % ",".join([made[0]] * min(made[1], 1_000_000 // len(made[0]))).encode()
        )
    )
    assert fuzz(large, check_largest) > 5


# Control messages --------------------------------------------------------------------------------


def check_message(case: tuple[bytes, int]) -> None:
    data, descriptors = case
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_descriptors()
        fds = [0] * descriptors
        socket.send_fds(theirs, [data], fds) if data else None
        theirs.close()
        received: list[int] = []
        try:
            with bounded_time():
                message, received = receive_message(ours)
        except EOFError:
            pass  # the end, or nonsense
        else:
            assert isinstance(message, dict)
            assert data[: HEADER.size] == HEADER.pack(int.from_bytes(data[:4]))
        for fd in received:
            os.close(fd)
        assert open_descriptors() <= before


def test_no_message_leaves_descriptors_or_raises_what_it_does_not_say() -> None:
    assert fuzz(st.tuples(frames, st.integers(0, 6)), check_message) > 100


# Jobs --------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8"), max_size=30)
limits_of_jobs = st.builds(
    replace,
    st.just(Limits()),
    wall_seconds=st.floats(0.1, 3600),
    data_bytes=st.integers(0, 2**62),
    processes=st.integers(0, 2**31),
)
jobs = st.builds(Job, st.sampled_from(list(Mode)), limits_of_jobs, names, names, st.booleans())


def check_job(case: tuple[Job, Places, bytes]) -> None:
    job, places, payload = case
    fd = file_with(encode_job(job, places, payload))
    try:
        assert read_job(fd) == (job, places)
        assert read_to_end(fd) == payload
    finally:
        os.close(fd)


def file_with(content: bytes) -> int:
    fd = os.memfd_create("job")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def test_every_job_arrives_as_it_was_sent() -> None:
    assert fuzz(st.tuples(jobs, st.builds(Places, names, names), st.binary()), check_job) > 100


def check_cut_job(case: tuple[Job, float]) -> None:
    job, share = case
    whole = encode_job(job, Places("/scratch"), b"")
    fd = file_with(whole[: math.floor(share * (len(whole) - 1))])
    try:
        with pytest.raises((EOFError, struct.error)), bounded_time():
            read_job(fd)
    finally:
        os.close(fd)


def test_a_job_that_is_cut_anywhere_is_none() -> None:
    assert fuzz(st.tuples(jobs, st.floats(0, 1)), check_cut_job) > 100
