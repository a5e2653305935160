"""The readers of uploads against inputs that hypothesis makes up, for as long as there is time.

Each claim holds for every input: it is taken or refused with a `BuildError`, within seconds, and
nothing is written but plain files in the folder. Run them for ten minutes each with

    ANYMIND_FUZZ_SECONDS=600 python3 run.py test -m slow tests/unit/test_fuzz.py -s

The number of inputs is printed.
"""

import gzip
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzzing import fuzz, needs_hypothesis
from tests.unit import test_archive as archives
from tests.unit import test_manifest as manifests

needs_hypothesis()

from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.slow

# What an allocator may keep; a leak of a few KB an input would be over it within a minute.
MAX_GROWTH_BYTES = 64 * 2**20
WARM_INPUTS = 100


def fuzz_in_bounded_memory(strategy: Any, check: Callable[[Any], object]) -> None:
    """Try `check` with new input until the time is up; memory must not grow once it is warm."""
    peaks: list[int] = []

    def check_and_weigh(value: Any) -> None:
        check(value)
        if len(peaks) < WARM_INPUTS:
            peaks.append(peak_bytes())

    assert fuzz(strategy, check_and_weigh, usual_seconds=10.0) >= WARM_INPUTS
    assert peak_bytes() - peaks[-1] < MAX_GROWTH_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- archives ---

PARTS = st.sampled_from(
    [b"a", b"A", b"main.py", b"anymind.yaml", b".", b"..", b"", b"x" * 99, "é".encode(),
     "e\u0301".encode(), b"\xff", b"a\\b", b"\n", b"._x", b"__pycache__", b"PaxHeaders"]
) | st.binary(max_size=30)  # fmt: skip
NAMES = st.lists(PARTS, min_size=1, max_size=14).map(b"/".join)
KINDS = st.sampled_from([b"0", b"0", b"0", b"\0", b"5", b"5", b"7", b"1", b"2", b"3", b"6", b"S"])
SIZES = st.sampled_from(
    [b"\x80" + b"\0" * 10 + b"\1", b"\xff" * 12, b"-1\0", b"77777777777\0", b"\0" * 12, b" 12 \0"]
)
VALUES = NAMES | st.sampled_from([b"0", b"5", b"-5", b"9" * 30, b""])
KEYS = st.sampled_from([b"path", b"path", b"size", b"GNU.sparse.major", b"comment", b"linkpath"])
DATA = st.binary(max_size=40) | st.integers(0, 3000).map(bytes)


def short(name: bytes) -> bytes:
    return name[:100]


PLAIN = st.builds(archives.member, NAMES.map(short), DATA, KINDS)
LYING = st.builds(
    lambda name, field, data: archives.header(name, size_field=field) + data,
    NAMES.map(short),
    SIZES,
    DATA,
)
LONG = st.builds(
    lambda kind, body: archives.member(b"././@LongLink", body, kind),
    st.sampled_from([b"L", b"K"]),
    NAMES | st.binary(max_size=600),
)
PAX = st.builds(
    lambda records, kind: archives.pax(*records, kind=kind),
    st.lists(st.tuples(KEYS, VALUES), max_size=5),
    st.sampled_from([b"x", b"x", b"g"]),
)
MEMBERS = st.lists(st.one_of(PLAIN, PLAIN, PAX, LONG, LYING), max_size=12).map(b"".join)
ENDS = st.sampled_from([archives.END, archives.END, b"", bytes(512), archives.END + b"x"])
TARS = st.builds(lambda members, end: members + end, MEMBERS, ENDS)


@st.composite
def made_uploads(draw: st.DrawFn) -> bytes:
    """A tar of likely and unlikely members, in one gzip member or more, whole or damaged."""
    content = draw(TARS)
    cut = draw(st.integers(0, len(content)))
    upload = gzip.compress(content[:cut], 1) + gzip.compress(content[cut:], 1)
    upload += draw(st.sampled_from([b"", b"", bytes(100), b"\x1f\x8b", b"x"]))
    if draw(st.integers(0, 4)) == 0:
        upload = archives.mutated(upload, draw(st.randoms(use_true_random=False)))
    return upload


MUTANTS = st.integers(0, 2**64).map(lambda number: archives.mutant(random.Random(number)))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: on a disk, removing folders takes most of the time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as path:
        yield Path(path)


def test_any_archive_is_unpacked_or_refused(folder: Path) -> None:
    def check(upload: bytes) -> None:
        shutil.rmtree(folder / "nest", ignore_errors=True)  # of an example that failed
        archives.unpack_or_refuse(upload, folder)

    fuzz_in_bounded_memory(st.one_of(made_uploads(), MUTANTS, st.binary(max_size=200)), check)


# --- manifests ---

SCALARS = st.one_of(
    st.sampled_from(["main:handle", "a", "null", "~", "1", "0x1f", "2024-01-01", "yes", "<<", "="]),
    st.sampled_from(manifests.SPICE),
    st.text(max_size=20),
    st.text(max_size=20).map(lambda text: '"' + text.replace('"', '\\"') + '"'),
    st.integers(0, 2**32).map(lambda number: f'"\\U{number:08x}"'),
)
NODES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(inner, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
        st.lists(inner, max_size=3).map(lambda items: "".join(f"\n  - {one}" for one in items)),
        inner.map(lambda text: f"&a {text}"),
        inner.map(lambda text: f"!!str {text}"),
        inner.map(lambda text: "|\n  " + text.replace("\n", "\n  ")),
    ),
    max_leaves=15,
)
FIELD_NAMES = st.sampled_from(
    ["name", "name", "entrypoint", "entrypoint", "description", "limits", "concurrency"]
)
LINES = st.lists(st.tuples(FIELD_NAMES | SCALARS, NODES), max_size=8).map(
    lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs)
)
DEEP = st.builds(
    lambda text, times: text * times,
    st.sampled_from(["[", "{a: ", "- ", "? "]),
    st.integers(1, 9999),
)
TEXTS = st.one_of(LINES, LINES, LINES.map(lambda text: manifests.MINIMAL + text), DEEP)
MANIFEST_MUTANTS = st.integers(0, 2**64).map(lambda n: manifests.mutant(random.Random(n)))


def test_any_manifest_is_read_or_refused() -> None:
    texts = st.one_of(TEXTS, MANIFEST_MUTANTS, st.binary(max_size=100), st.text(max_size=300))
    fuzz_in_bounded_memory(texts, manifests.read_or_refuse)
