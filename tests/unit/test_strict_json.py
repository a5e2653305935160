"""Reading JSON that a stranger wrote."""

import json
import random
from typing import Any

import pytest

from anymind_lite.strict_json import MAX_DEPTH, StrictJsonError, parse_json

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**18,
    "",
    "wörld 👋",
    "\0",
    [],
    {},
    [1, [2, {"a": None}]],
    {"": {"é": ["x"]}},
]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def nested_objects(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_every_kind_of_value_is_read(value: Any, ensure_ascii: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value at line 1 column 1"),
        (b" ", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a":1}\nx', "Extra data at line 2 column 1"),
        (b"[1,]", "at line 1 column"),
        (b"'a'", "Expecting value"),
        (b"01", "Extra data"),
        (b"+1", "Expecting value"),
        (b".5", "Expecting value"),
        (b'"a\nb"', "Invalid control character"),
        (b'"\\x"', "Invalid \\escape"),
        (b"\xef\xbb\xbf1", "BOM"),
        (b'"\xff"', "it is not UTF-8 text (byte 1)"),
        ("{}".encode("utf-16"), "it is not UTF-8 text (byte 0)"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b"1e400", "a number is too large"),
        (b"[-1e400]", "a number is too large"),
        (b"1" * 5000, "a number has too many digits"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'["a", "\\udfff\\ud800"]', "half of a surrogate pair"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "it is not UTF-8 text"),
        (nested(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        (nested_objects(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        (nested(200_000), f"more than {MAX_DEPTH} levels"),
        (b"[" * 200_000, f"more than {MAX_DEPTH} levels"),
        (nested_objects(200_000), f"more than {MAX_DEPTH} levels"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json_is_refused_with_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        parse_json(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_depth_counts_containers(depth: int) -> None:
    parse_json(nested(depth), max_depth=depth)
    parse_json(nested_objects(depth), max_depth=depth)
    for text in (nested(depth + 1), nested_objects(depth + 1)):
        with pytest.raises(StrictJsonError, match=f"more than {depth} levels"):
            parse_json(text, max_depth=depth)


def test_a_scalar_has_no_depth() -> None:
    assert parse_json(b"1", max_depth=0) == 1


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'"\\ud83d\\udc4b"') == "👋"


def test_digits_up_to_the_limit_of_int_are_read() -> None:
    assert parse_json(b"1" * 4300) == int("1" * 4300)


def test_mutated_text_is_read_as_json_does_or_refused_in_the_one_way() -> None:
    chance = random.Random(1)
    seed = json.dumps(VALUES).encode() + b'NaN Infinity \\ud800 1e999 "\\u0000"'
    for _ in range(5000):
        start = chance.randrange(len(seed))
        text = bytearray(seed[start : start + chance.randrange(60)])
        for _ in range(chance.randrange(3)):
            if text:
                text[chance.randrange(len(text))] = chance.randrange(256)
        try:
            value = parse_json(bytes(text))
        except StrictJsonError:
            continue
        assert value == json.loads(text)
