"""The bench counts right: percentiles, ratios, turns, tables, the chart, the ends of answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from socket import create_server
from xml.etree import ElementTree

import pytest

from anymind_lite.database import ServerDatabase
from bench import page, sizes
from bench.aims import AIMS
from bench.builds import read_waits
from bench.chart import Bar, Group, decades, draw, position
from bench.clients import Request, take_turn
from bench.executions import NAIVE, NO_AGENT
from bench.figures import (
    Cell,
    Findings,
    Turn,
    medians_in_turn,
    percentile,
    ratio,
    summarize,
    take_turns,
)
from bench.peers import KINDS
from bench.writers import write_once
from tests.unit.conftest import Rows
from tests.unit.test_ladder import MODULES, imports_of, name_of

SVG = "{http://www.w3.org/2000/svg}"


def cell(contender: str, p50_ms: float, *, agent: str = "hello", clients: int = 1) -> Cell:
    per_second, warm_share = 1000 * clients / p50_ms, float("warm" in contender)
    return Cell(contender, agent, clients, p50_ms, p50_ms * 2, per_second, 10, warm_share)


# Arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_the_percentile_of_few_values_is_the_largest_and_of_none_an_error() -> None:
    assert percentile([3, 1, 2], 0.99) == 3
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_ratio_of_what_was_not_measured_is_none() -> None:
    assert ratio(6, 3) == 2
    assert ratio(None, 3) is None
    assert ratio(6, None) is None
    assert ratio(6, 0) is None


def test_all_turns_of_a_contender_count_together() -> None:
    turns = [Turn((0.001, 0.002), 0.5, warm=1), Turn((0.003,), 1.0, warm=1)]
    found = summarize("ours", "hello", 4, turns)
    assert (found.p50_ms, found.p99_ms, found.calls) == pytest.approx((2, 3, 3))
    assert found.per_second == pytest.approx(2)
    assert found.warm_share == pytest.approx(2 / 3)


def test_turns_alternate_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def taker(name: str) -> Turn:
        order.append(name)
        return Turn((float(len(order)),), 1.0)

    taken = take_turns({"a": lambda: taker("a"), "b": lambda: taker("b")}, rounds=2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [turn.latencies for turn in taken["a"]] == [(4.0,), (5.0,)]
    assert [turn.latencies for turn in taken["b"]] == [(3.0,), (6.0,)]


def test_medians_are_in_milliseconds_and_taken_in_turn() -> None:
    now, order = [0.0], []

    def spend(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    actions = {"a": lambda: spend("a", 0.001), "b": lambda: spend("b", 0.02)}
    found = medians_in_turn(actions, rounds=3, clock=lambda: now[0])
    assert found == pytest.approx({"a": 1, "b": 20})
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_build_waits_from_its_first_hint_to_its_first_claim() -> None:
    stamps = "enqueued 7 10.0\nenqueued 8 10.1\nclaimed 7 10.5\nenqueued 7 11\nclaimed 8 10.2\n"
    assert read_waits(stamps) == pytest.approx([0.5, 0.1])


def test_every_write_of_the_writers_reaches_the_disk(database: ServerDatabase, rows: Rows) -> None:
    rows.user()
    log = database.path.with_name(f"{database.path.name}-wal")
    before = log.stat().st_size
    for _ in range(10):
        write_once()
    assert log.stat().st_size - before >= 10 * 4096  # a page each


# Aims ---------------------------------------------------------------------------------------------


def aim(start: str) -> tuple[float | None, bool]:
    """Return what an aim finds in some findings, and whether that is enough."""
    findings = Findings(
        cells=[
            cell(KINDS["true"], 1, agent=NO_AGENT),
            cell(NAIVE, 100),
            cell(NAIVE, 400, clients=4),
            cell("ours, cold, tier A", 50),
            cell("ours, warm, tier A", 10),
            cell("ours, warm, tier A", 20, clients=4),
            cell("ours, warm, no layers", 8),
        ]
    )
    findings.add(sizes.growth_name("get an agent", sizes.EXECUTIONS), 1.1, "x")
    findings.add(sizes.growth_name("list executions", sizes.EXECUTIONS), 1.3, "x")
    (one,) = (one for one in AIMS if one.name.startswith(start))
    value = one.find(findings)
    return value, value is not None and one.is_met(value)


@pytest.mark.parametrize(
    ("start", "value", "is_met"),
    [
        ("execute hello", 10, False),
        ("FastAPI + subprocess.run ÷ ours, p50, hello", 10, True),
        ("the same, numpy", None, False),
        ("requests a second", 20, True),
        ("p50 with all layers", 1.25, True),
        ("p99 ÷ p50", 2, True),
        ("get an agent, list, logs", 1.3, False),
        ("idle PSS", None, False),
    ],
)
def test_aims_are_about_warm_runs_behind_all_walls(
    start: str, value: float | None, is_met: bool
) -> None:
    found, met = aim(start)
    assert found == (None if value is None else pytest.approx(value))
    assert met == is_met


def test_a_warm_run_is_not_compared_with_a_cold_one() -> None:
    (layers,) = (one for one in AIMS if one.name.startswith("p50 with all layers"))
    walled = cell("ours, warm, tier A", 10)
    for share, expected in ((1.0, 1.25), (0.0, None)):
        bare = replace(cell("ours, warm, no layers", 8), warm_share=share)
        assert layers.find(Findings(cells=[walled, bare])) == expected


# What is written ----------------------------------------------------------------------------------


def test_findings_survive_json() -> None:
    findings = Findings(machine={"CPU": "one"}, cells=[cell("ours", 1)])
    findings.add("idle", 40, "MB")
    findings.leave_out("bubblewrap", "not\n  there")
    again = Findings.from_json(json.loads(json.dumps(findings.to_json())))
    assert again == findings
    assert again.left_out == ["bubblewrap: not there"]


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    before = f"above\n{page.BEGIN}\nold\n{page.END}\nbelow\n"
    after = page.between_marks(before, "new")
    assert after == f"above\n{page.BEGIN}\n\nnew\n\n{page.END}\nbelow\n"
    assert page.between_marks(after, "new") == after
    with pytest.raises(ValueError, match="no marks"):
        page.between_marks("nothing", "new")


def test_the_page_has_its_marks() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert "new" in page.between_marks(text, "new")


def test_tables_name_the_machine_the_ratio_to_the_best_and_what_was_left_out() -> None:
    findings = Findings(machine={"CPU": "a fast one"}, cells=[cell("a", 2), cell("b", 5)])
    findings.leave_out("c", "no such thing")
    text = page.to_markdown(findings)
    assert "- CPU: a fast one" in text
    assert "- c: no such thing" in text
    (row,) = (line.split("|") for line in text.splitlines() if line.startswith("| b "))
    assert [one.strip() for one in row[2:6]] == ["5", "10", "200", "2.5"]


def test_the_columns_of_a_table_are_aligned() -> None:
    lines = page.table(["who", "ms"], [["a", "1"], ["longer", "1,000"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("-: |")


def test_the_machine_is_named() -> None:
    machine = page.describe_machine()
    assert all(machine[name] for name in ("CPU", "kernel", "Python", "temporary files"))


# The chart ----------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_logarithms() -> None:
    bars = [
        Bar("one <&>", 1, is_ours=True),
        Bar("ten", 10, is_ours=False),
        Bar("most", 100, is_ours=False),
    ]
    root = ElementTree.fromstring(draw("title", "note", [Group("hello", bars)]))
    widths = [float(one.get("width", "")) for one in root.findall(f"{SVG}rect")[1:]]
    assert widths[0] == 1  # the least is seen
    assert widths[2] == pytest.approx(2 * widths[1])
    texts = [one.text for one in root.findall(f"{SVG}text")]
    assert {"title", "note", "hello", "one <&>", "10 ms", "100 ms"} <= set(texts)


def test_nothing_is_drawn_outside_the_picture() -> None:
    groups = [Group("g", [Bar("b", value, is_ours=True) for value in (0.3, 7, 4321)])] * 3
    root = ElementTree.fromstring(draw("title", "note", groups))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for one in root.findall(f"{SVG}rect")[1:]:
        assert float(one.get("x", "")) + float(one.get("width", "")) < width
        assert float(one.get("y", "")) + float(one.get("height", "")) < height


def test_a_logarithmic_scale_wants_values_above_zero() -> None:
    assert decades([0.4, 25]) == (-1, 2)
    assert decades([10, 10]) == (1, 2)
    assert position(1, -1, 1) == 0.5
    with pytest.raises(ValueError, match="above 0"):
        draw("title", "", [Group("g", [Bar("b", 0, is_ours=True)])])


# The clients --------------------------------------------------------------------------------------


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def answering(*pieces: bytes) -> Iterator[str]:
    """Serve one connection: each request is answered with these pieces, one send each."""
    with create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536):
                    for piece in pieces:
                        connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.mark.parametrize(
    "pieces",
    [
        (b'HTTP/1.1 201 CREATED\r\ncontent-length: 18\r\n\r\n{"a":1,"warm":true',),
        (b"HTTP/1.1 200 OK\r\nContent-Length", b': 18\r\n\r\n{"a":1,', b'"warm":true'),
        (CHUNKED_HEAD, b'12\r\n{"a":1,"warm":true\r\n', b"0\r\n\r\n"),
    ],
)
def test_answers_are_read_to_their_end_however_they_come(pieces: tuple[bytes, ...]) -> None:
    with answering(*pieces) as url:
        turn = take_turn(Request.post(url, b"{}", expected=b'"a":1'), clients=1, seconds=0.01)
    assert turn.warm == len(turn.latencies) >= 1
    assert turn.seconds >= sum(turn.latencies) * 0.9


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 NO\r\nContent-Length: 5\r\n\r\n" + b'"a":1',
        b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"b":2',
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_what_was_wanted_ends_the_measurement(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(RuntimeError):
        take_turn(Request.post(url, b"{}", expected=b'"a":1'), clients=1, seconds=0)


# Apart from the product ---------------------------------------------------------------------------


def test_nothing_of_the_product_imports_the_bench_but_its_command() -> None:
    importing = [
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == "bench" for name in imports_of(path))
    ]
    assert importing == ["cli.run_bench"]
