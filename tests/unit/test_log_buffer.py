"""What an agent printed, kept head and tail."""

import random
import tracemalloc
from collections.abc import Iterable

import pytest

from anymind_lite.sandbox.in_server.log_buffer import LogBuffer


def text_of(stream: bytes, kept_bytes: int, sizes: Iterable[int] = ()) -> str:
    """Return the text of a stream that arrives in chunks of these sizes."""
    buffer, rest = LogBuffer(kept_bytes), stream
    for size in sizes:
        buffer.append(rest[:size])
        rest = rest[size:]
    buffer.append(rest)
    assert buffer.written_bytes == len(stream)
    return buffer.text()


@pytest.mark.parametrize(
    ("stream", "kept_bytes", "text"),
    [
        (b"", 10, ""),
        (b"abc", 10, "abc"),
        (b"0123456789", 10, "0123456789"),
        (b"0123456789A", 10, "01234\n... 1 bytes left out ...\n6789A"),
        (b"a" * 5 + b"-" * 2000 + b"z" * 5, 10, "aaaaa\n... 2,000 bytes left out ...\nzzzzz"),
        (b"0123", 3, "0\n... 2 bytes left out ...\n3"),
        (b"0123", 1, "\n... 4 bytes left out ...\n"),
        (b"0123", 0, "\n... 4 bytes left out ...\n"),
        ("é".encode(), 10, "é"),
        (b"\xff\xfe", 10, "\ufffd\ufffd"),
        (b"a\0b", 10, "a\ufffdb"),
        ("éé".encode(), 2, "\ufffd\n... 2 bytes left out ...\n\ufffd"),
        (b"line\r\nline\n", 20, "line\r\nline\n"),
    ],
)
def test_head_and_tail_are_kept_and_the_rest_is_counted(
    stream: bytes, kept_bytes: int, text: str
) -> None:
    assert text_of(stream, kept_bytes) == text
    assert text_of(stream[:5000], kept_bytes, [1] * 5000) == text_of(stream[:5000], kept_bytes)


@pytest.mark.parametrize("seed", range(20))
def test_any_chunking_gives_the_same_text(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        stream = chance.randbytes(chance.randrange(400))
        kept_bytes = chance.randrange(0, 200)
        largest = chance.choice([1, 2, 7, 60, 500])
        sizes = [chance.randrange(largest + 1) for _ in range(len(stream))]
        assert text_of(stream, kept_bytes, sizes) == text_of(stream, kept_bytes)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_stands_at_the_ends_of_the_stream(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        stream = bytes(chance.choices(b"abcdefgh\n", k=chance.randrange(300)))
        kept_bytes = chance.randrange(2, 150)
        head, omitted, tail = text_of(stream, kept_bytes).partition("\n... ")
        if not omitted:
            assert head.encode() == stream
            continue
        count, _, tail = tail.partition(" bytes left out ...\n")
        assert stream.startswith(head.encode())
        assert stream.endswith(tail.encode())
        assert len(head) == len(tail) == kept_bytes // 2
        assert len(head) + int(count) + len(tail) == len(stream)


@pytest.mark.parametrize("chunk", [b"xy", b"x" * 1000, b"x" * 65536, b"x" * 8_000_000])
def test_memory_stays_bounded(chunk: bytes) -> None:
    kept_bytes = 64 * 1024
    buffer = LogBuffer(kept_bytes)
    tracemalloc.start()
    try:
        for _ in range(32_000_000 // max(len(chunk), 500)):
            buffer.append(bytes(bytearray(chunk)))  # a copy of its own, as from a pipe
        used, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 4 * kept_bytes
