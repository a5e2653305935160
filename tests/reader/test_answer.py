"""What a reading answers is checked field by field; what is off in any is refused."""

import json
from dataclasses import asdict, fields
from typing import Any

import pytest

from anymind_lite.archive import ArchiveLimits
from anymind_lite.manifest import MAX_MANIFEST_BYTES, Manifest, load_manifest
from anymind_lite.reader import answer as answers
from anymind_lite.reader.answer import (
    BadAnswer,
    max_answer_bytes,
    read_answer,
    read_errno,
    read_flag,
    read_text,
    read_unpacked,
)

LIMITS = ArchiveLimits(max_bytes=1000, max_files=5)
MANIFEST = load_manifest("name: a\nentrypoint: main:handle\n", ["main.py"])


def answer(**changes: Any) -> dict[str, Any]:
    """Return a sound answer but for the changes; those with a prefix go into the manifest."""
    manifest = asdict(MANIFEST) | {
        key.removeprefix("manifest_"): value
        for key, value in changes.items()
        if key.startswith("manifest_")
    }
    own = {key: value for key, value in changes.items() if not key.startswith("manifest_")}
    files = ["anymind.yaml", "main.py"]
    return {"files": files, "root": "", "manifest": manifest, **own}


def test_a_sound_answer_is_taken() -> None:
    found = read_unpacked(answer(root="top"), LIMITS)
    assert (found.files, found.root, found.manifest) == (
        ("anymind.yaml", "main.py"),
        "top",
        MANIFEST,
    )


@pytest.mark.parametrize("number", [None, 1, 256])
def test_any_concurrency_that_can_be_said_is_taken(number: int | None) -> None:
    assert read_unpacked(answer(manifest_concurrency=number), LIMITS).manifest.concurrency == number


@pytest.mark.parametrize("name", ["a b.py", "größe/漢字.txt", "a/b/c", "x" * 200, "..a", "👩‍🍳"])
def test_names_that_an_archive_may_hold_are_taken(name: str) -> None:
    assert name in read_unpacked(answer(files=["anymind.yaml", name]), LIMITS).files


BAD_NAMES = ["", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\nb", "a\0",
             "\x85", "\u2028", "x" * 201, "/".join("a" * 13), 5, None, ["a"], True]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_file_without_a_clean_name_is_refused(name: object) -> None:
    with pytest.raises(BadAnswer):
        read_unpacked(answer(files=["anymind.yaml", name]), LIMITS)


@pytest.mark.parametrize("root", [one for one in BAD_NAMES if one != ""] + ["a/b"])
def test_a_root_that_is_no_plain_name_is_refused(root: object) -> None:
    with pytest.raises(BadAnswer):
        read_unpacked(answer(root=root), LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": "anymind.yaml"},
        {"files": []},
        {"files": ["main.py"]},
        {"files": ["anymind.yaml", "a", "a"]},
        {"files": ["anymind.yaml", *"abcde"]},
        {"manifest": None},
        {"manifest": []},
        {"manifest": {}},
        {"manifest_surprise": 1},
        {"manifest_name": None},
        {"manifest_name": ""},
        {"manifest_name": "two\nlines"},
        {"manifest_name": "x" * 201},
        {"manifest_entrypoint": "main"},
        {"manifest_entrypoint": "../main:handle"},
        {"manifest_entrypoint": "main:handle\n"},
        {"manifest_entrypoint": "main:" + "x" * 300},
        {"manifest_entrypoint": ["main:handle"]},
        {"manifest_description": 5},
        {"manifest_framework": {}},
        {"manifest_limits": None},
        {"manifest_limits": {"memory": 64}},
        {"manifest_limits": {"memory_mb": 1}},
        {"manifest_limits": {"memory_mb": 64.5}},
        {"manifest_limits": {"memory_mb": True}},
        {"manifest_limits": {"timeout_seconds": "9"}},
        {"manifest_limits": {"timeout_seconds": 1e300}},
        {"manifest_allows_processes": 1},
        {"manifest_concurrency": 0},
        {"manifest_concurrency": 257},
        {"manifest_concurrency": 2.0},
        {"manifest_concurrency": True},
        {"manifest_concurrency": "2"},
        {"manifest_concurrency": [2]},
        {"manifest_text": None},
        {"manifest_text": "x" * (MAX_MANIFEST_BYTES + 1)},
    ],
)
def test_a_field_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        read_unpacked(answer(**changes), LIMITS)


@pytest.mark.parametrize("document", [None, [], "text", 5, {}])
def test_what_is_no_answer_at_all_is_refused(document: object) -> None:
    with pytest.raises(BadAnswer):
        read_unpacked(document, LIMITS)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b'{"a": "\\ud800"}', b"[1]", b"\xff", b"{}x"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(data)


@pytest.mark.parametrize("value", [None, 0, -1, True, 1.5, "28", 4096, 10**30])
def test_an_errno_that_is_none_is_refused(value: object) -> None:
    assert read_errno(28) == 28
    with pytest.raises(BadAnswer):
        read_errno(value)


@pytest.mark.parametrize("value", [None, 1, "true", "x" * 20_001])
def test_flags_and_texts_are_of_their_kind(value: object) -> None:
    with pytest.raises(BadAnswer):
        read_flag(value)
    if value != "true":
        with pytest.raises(BadAnswer):
            read_text(value)


def test_every_field_of_a_manifest_has_its_check() -> None:
    assert {field.name for field in fields(Manifest)} == answers._MANIFEST_FIELDS.keys()


def test_the_longest_honest_answer_fits() -> None:
    limits = ArchiveLimits(max_bytes=10**6, max_files=300)
    names = [f"{number:03}" + '"' * 97 + "\U0001f600" * 100 for number in range(300)]
    text = "\x07" * MAX_MANIFEST_BYTES
    longest = {"files": names, "root": "r" * 200, "manifest": {"text": text, "description": text}}
    written = json.dumps({"unpacked": longest}, ensure_ascii=False).encode()
    assert len(written) <= max_answer_bytes(limits)
