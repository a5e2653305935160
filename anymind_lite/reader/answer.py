"""What a reading answers, and how the server takes it: as hostile as the archive itself.

Written by the reading, read by the server. A document holds one of: `unpacked`, `is_tar_gz`,
`error` (the sender's fault, in words for the sender), `errno` and `failure` (ours, for the log).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anymind_lite.archive import MANIFEST_NAME, ArchiveLimits
from anymind_lite.manifest import CONCURRENCY, LIMIT_KEYS, MAX_MANIFEST_BYTES, LimitKey, Manifest
from anymind_lite.strict_json import StrictJsonError, parse_json

MAX_TEXT_CHARS = 20_000
_MAX_DEPTH = 10
_MAX_ERRNO = 4095  # include/linux/err.h, MAX_ERRNO

# What the archive's reader lets through in a name, by the characters that it refuses.
_REFUSED_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")
_ENTRYPOINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


class BadAnswer(Exception):
    """A reading answered what no sound one answers; the text says what, for the log."""


@dataclass(frozen=True)
class Unpacked:
    """An archive's files as they stand in their folder, and what the manifest says.

    `root` is "" or the name of the one folder that holds the agent; `files` are named from there,
    sorted.
    """

    files: tuple[str, ...]
    root: str
    manifest: Manifest


def max_answer_bytes(limits: ArchiveLimits) -> int:
    """Return how long the longest answer of a sound reading may be."""
    name_bytes = 4 * limits.max_name_chars + 8  # UTF-8, escapes, quotes and a comma
    # JSON writes a control character as six; the manifest's values come on top of its text.
    return limits.max_files * name_bytes + 12 * MAX_MANIFEST_BYTES + 4 * MAX_TEXT_CHARS


def read_answer(data: bytes) -> dict[str, Any]:
    """Return the document that a reading wrote, its form unchecked. Raises BadAnswer."""
    try:
        document = parse_json(data, max_depth=_MAX_DEPTH)
    except StrictJsonError as exc:
        raise BadAnswer(f"no JSON: {exc}") from exc
    return _object(document)


def read_unpacked(value: object, limits: ArchiveLimits) -> Unpacked:
    """Check every field of an `unpacked` document. Raises BadAnswer."""
    document = _object(value)
    files = document.get("files")
    if not isinstance(files, list) or not 0 < len(files) <= limits.max_files:
        raise BadAnswer("files are no list, or too many")
    names = tuple(sorted({_name(one, limits) for one in files}))
    if len(names) != len(files) or MANIFEST_NAME not in names:
        raise BadAnswer("files are named twice, or lack the manifest")
    root = document.get("root")
    if root != "" and "/" in _name(root, limits):
        raise BadAnswer("the root is no plain name")
    return Unpacked(names, str(root), manifest_from_json(document.get("manifest")))


def read_flag(value: object) -> bool:
    """Return a boolean. Raises BadAnswer."""
    if not isinstance(value, bool):
        raise BadAnswer("a flag is not true or false")
    return value


def read_text(value: object) -> str:
    """Return a text of bounded length. Raises BadAnswer."""
    return _text(value, MAX_TEXT_CHARS)


def read_errno(value: object) -> int:
    """Return an error number of the system. Raises BadAnswer."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_ERRNO:
        raise BadAnswer("an errno is no such number")
    return value


def manifest_from_json(value: object) -> Manifest:
    """Return the manifest that `asdict` made plain, each field checked. Raises BadAnswer."""
    document = _object(value)
    if document.keys() != _MANIFEST_FIELDS.keys():
        raise BadAnswer("the manifest has other fields")
    return Manifest(**{name: read(document[name]) for name, read in _MANIFEST_FIELDS.items()})


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer("an object is missing")
    return value


def _name(value: object, limits: ArchiveLimits) -> str:
    name = _text(value, limits.max_name_chars)
    parts = name.split("/")
    if _REFUSED_CHARS.search(name) or not {"", ".", ".."}.isdisjoint(parts):
        raise BadAnswer("a file has no clean name")
    if len(parts) > limits.max_depth:
        raise BadAnswer("a file lies too deep")
    return name


def _text(value: object, max_chars: int = MAX_MANIFEST_BYTES) -> str:
    if not isinstance(value, str) or len(value) > max_chars:
        raise BadAnswer("a text is none, or too long")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _line(value: object) -> str:
    text = _text(value, 200)
    if not text or _REFUSED_CHARS.search(text.replace("\\", "")):
        raise BadAnswer("a line is empty or more than one")
    return text


def _entrypoint(value: object) -> str:
    text = _text(value, 300)
    if _ENTRYPOINT.fullmatch(text) is None:
        raise BadAnswer("the entrypoint has another form")
    return text


def _limits(value: object) -> dict[str, float]:
    document = _object(value)
    for key, number in document.items():
        if key not in LIMIT_KEYS:
            raise BadAnswer("a limit is none")
        _number(number, LIMIT_KEYS[key])
    return document


def _concurrency(value: object) -> float | None:
    return None if value is None else _number(value, CONCURRENCY)


def _number(value: Any, known: LimitKey) -> float:
    if type(value) is not int and (known.is_whole or type(value) is not float):
        raise BadAnswer("a limit is no number")
    if not known.least <= value <= known.most:
        raise BadAnswer("a limit is out of its range")
    return float(value) if type(value) is float else int(value)


# How each field of the manifest is checked on arrival: a new one needs its line here.
# (test_every_field_of_a_manifest_has_its_check)
_MANIFEST_FIELDS: dict[str, Callable[[object], Any]] = {
    "name": _line,
    "entrypoint": _entrypoint,
    "description": _optional_text,
    "framework": _optional_text,
    "text": _text,
    "limits": _limits,
    "allows_processes": read_flag,
    "concurrency": _concurrency,
}
