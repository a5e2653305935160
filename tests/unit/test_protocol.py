"""Frames and descriptors between server and zygote, jobs between server and child."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import (
    HEADER,
    MAX_CONTROL_BYTES,
    Job,
    Mode,
    Places,
    encode_job,
    read_job,
    read_to_end,
    receive_message,
    send_message,
    withdraw_job,
)
from tests.processes import open_descriptors
from tests.waiting import DEADLINE_SECONDS

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert len(open_descriptors()) == len(before)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_SECONDS)
        theirs.settimeout(DEADLINE_SECONDS)
        yield ours, theirs


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    "message", [{}, {"pid": 1}, {"error": "fork: é"}, {"wall_seconds": 0.5, "deep": [{"a": None}]}]
)
def test_message_arrives_as_it_was_sent(pair: Pair, message: dict[str, Any]) -> None:
    send_message(pair[0], message)
    assert receive_message(pair[1]) == (message, [])


def test_messages_keep_their_bounds_and_their_descriptors(
    pair: Pair, pipe: tuple[int, int]
) -> None:
    for number in range(20):
        send_message(pair[0], {"number": number}, pipe if number % 2 else ())
    for number in range(20):
        message, fds = receive_message(pair[1])
        assert message == {"number": number}
        assert len(fds) == (2 if number % 2 else 0)
        close_all(fds)


def test_received_descriptors_work_and_close_on_exec(pair: Pair, pipe: tuple[int, int]) -> None:
    readable, writable = pipe
    send_message(pair[0], {}, [writable])
    _message, fds = receive_message(pair[1])
    assert fds != [writable]
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"through the copy")
    assert os.read(readable, 100) == b"through the copy"
    close_all(fds)


def test_frame_that_arrives_byte_by_byte_is_one_message(pair: Pair) -> None:
    data = HEADER.pack(8) + b'{"a": 1}'

    def drip() -> None:
        for byte in data:
            pair[0].sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    assert receive_message(pair[1]) == ({"a": 1}, [])
    thread.join()


@pytest.mark.parametrize("sent", range(12))
@pytest.mark.parametrize("has_descriptors", [False, True])
def test_hang_up_at_any_byte_is_the_end_and_closes_what_came(
    pair: Pair, pipe: tuple[int, int], sent: int, has_descriptors: bool
) -> None:
    data = (HEADER.pack(8) + b'{"a": 1}')[:sent]
    if has_descriptors and data:
        socket.send_fds(pair[0], [data], list(pipe))
    else:
        pair[0].sendall(data)
    pair[0].close()
    before = open_descriptors()
    with pytest.raises(EOFError):
        receive_message(pair[1])
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(MAX_CONTROL_BYTES + 1),
        HEADER.pack(2**32 - 1) + b"x" * 100,
        HEADER.pack(4) + b"{{{{",
        HEADER.pack(2) + b"\xff\xfe",
        HEADER.pack(2) + b"[]",
        HEADER.pack(4000) + b"[" * 4000,
        HEADER.pack(0),
    ],
)
def test_nonsense_is_refused_and_closes_what_came(
    pair: Pair, pipe: tuple[int, int], data: bytes
) -> None:
    socket.send_fds(pair[0], [data], list(pipe))
    before = open_descriptors()
    with pytest.raises(EOFError):
        receive_message(pair[1])
    assert open_descriptors() == before


def test_more_descriptors_than_are_expected_do_not_stay(pair: Pair, pipe: tuple[int, int]) -> None:
    send_message(pair[0], {}, [pipe[0]] * 10)
    before = open_descriptors()
    _message, fds = receive_message(pair[1], max_fds=2)
    assert len(open_descriptors() - before) == len(fds) <= 3  # CMSG_SPACE rounds up (cmsg(3))
    close_all(fds)


def test_message_over_the_limit_is_not_sent(pair: Pair) -> None:
    room = MAX_CONTROL_BYTES - len('{"a": ""}')
    send_message(pair[0], {"a": "x" * room})
    assert receive_message(pair[1])[0] == {"a": "x" * room}
    with pytest.raises(ValueError, match="too large"):
        send_message(pair[0], {"a": "x" * (room + 1)})
    pair[0].close()
    with pytest.raises(EOFError):
        receive_message(pair[1])


def test_sending_to_who_hung_up_is_an_os_error(pair: Pair, pipe: tuple[int, int]) -> None:
    pair[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        send_message(pair[0], {}, pipe)


# Jobs ---------------------------------------------------------------------------------------------

JOBS = [
    Job(Mode.PROBE, Limits()),
    Job(Mode.EXECUTE, Limits(wall_seconds=0.5, data_bytes=2**40), "/code/é", "a.b:c"),
    Job(Mode.VALIDATE, Limits(), "/" + "x" * 4000, "m:f"),
]


@pytest.fixture
def fd_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], int]]:
    opened: list[int] = []

    def make(content: bytes) -> int:
        path = tmp_path_factory.mktemp("job") / "job"
        path.write_bytes(content)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield make
    close_all(opened)


PLACES = Places("/scratch", "1/2")


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.mode)
@pytest.mark.parametrize("payload", [b"", b"null", b'{"a":1}', b"\0" * 300_000])
def test_job_and_payload_arrive_whole(
    fd_with: Callable[[bytes], int], job: Job, payload: bytes
) -> None:
    fd = fd_with(encode_job(job, PLACES, payload))
    assert read_job(fd) == (job, PLACES)
    assert read_to_end(fd) == payload


@pytest.mark.parametrize("kept", [4, 5, 50])
def test_job_that_ends_early_is_an_error(fd_with: Callable[[bytes], int], kept: int) -> None:
    fd = fd_with(encode_job(JOBS[1], PLACES, b"")[:kept])
    with pytest.raises(EOFError):
        read_job(fd)


@pytest.mark.parametrize("read_bytes", [0, 1, 100])
def test_job_is_taken_back_unless_somebody_has_read_of_it(read_bytes: int) -> None:
    fd = os.memfd_create("job")
    theirs = os.dup(fd)  # the same open file description, as SCM_RIGHTS gives it
    try:
        job = encode_job(Job(Mode.PROBE, Limits()), Places("/scratch"), b"{}")
        os.pwrite(fd, job, 0)
        os.read(theirs, read_bytes)
        assert withdraw_job(fd) is (read_bytes == 0)
        assert os.read(theirs, 1) == b""
    finally:
        os.close(fd)
        os.close(theirs)
