"""The server's side of the reader: starts the process, hands over what to read, judges the end.

Runs in the server. What a reading answers is hostile: it is read in bounded amounts and understood
in `answer` alone.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from anymind_lite.archive import ArchiveLimits, too_large
from anymind_lite.errors import BuildError, quoted
from anymind_lite.reader.answer import (
    BadAnswer,
    Unpacked,
    max_answer_bytes,
    read_answer,
    read_errno,
    read_flag,
    read_text,
    read_unpacked,
)
from anymind_lite.sandbox.policy import MEGABYTE
from anymind_lite.sandbox.protocol import (
    SANDBOX_GID,
    SANDBOX_UID,
    hang_up,
    receive_message,
    send_message,
)

logger = logging.getLogger(__name__)

_READER_PATH = Path(__file__).parent / "in_reader.py"
_READ_BYTES = 1 << 16
_SEND_SECONDS = 5.0
_STOP_SECONDS = 5.0
_IDLE_SECONDS = 300.0
# The guard keeps the deadline; this much later the server takes the whole reader for broken.
_GUARD_GRACE_SECONDS = 10.0
# Time for the fixed part, and for each byte at the pace of a bad SD card and a small processor.
_BASE_SECONDS = 60.0
_BYTES_PER_SECOND = 2 * MEGABYTE
_BYTES_PER_CPU_SECOND = 4 * MEGABYTE

_MAKE_IT_AGAIN = "make and upload it again"


def _always() -> bool:
    return True


class ReaderFailed(Exception):
    """A reading failed by our fault; the text is for the log."""


class NoRoomToUnpack(Exception):
    """An archive holds more than its reading was given room for, and less than is allowed."""


class ReadingCancelled(Exception):
    """A reading was called off, or the reader is stopping."""


@dataclass(frozen=True)
class _End:
    """How a reading ended, as its guard saw it, and what it had written by then."""

    status: int
    is_overdue: bool
    cpu_seconds: float
    answer: bytes


class _Reading:
    """A reading that runs: hanging up its lease ends it."""

    def __init__(self, lease: socket.socket, key: str) -> None:
        self.lease = lease
        self.key = key
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        hang_up(self.lease)


class Reader:
    """Has uploads read by a process that can do nothing else; one for the whole server."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes(limits)
        self._wall_seconds = _BASE_SECONDS + limits.max_bytes / _BYTES_PER_SECOND
        self._cpu_seconds = int(_BASE_SECONDS + limits.max_bytes / _BYTES_PER_CPU_SECOND)
        self._lock = threading.Lock()  # held for as long as a message takes to send
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._readings: set[_Reading] = set()
        self._idle_at = 0.0
        self._is_stopping = True

    @property
    def max_unpacked_bytes(self) -> int:
        """What an archive may hold where there is room for it."""
        return self._limits.max_bytes

    def start(self) -> None:
        """Read from now on; the process begins with the first reading."""
        with self._lock:
            self._is_stopping = False

    def end_if_idle(self) -> None:
        """End the process where nothing was read for a while; a later reading starts another.

        Many servers see an upload a week, and it holds 10 MB.
        """
        with self._lock:
            is_idle = not self._readings and time.monotonic() >= self._idle_at
            if self._process is not None and is_idle:
                self._retire()
                logger.info("event=reader_ended reason=idle")

    def stop(self) -> None:
        """End every reading and the process; whoever waits for one hears that it is called off."""
        with self._lock:
            self._is_stopping = True
            for reading in self._readings:
                reading.cancel()
            self._retire()

    def is_tar_gz(self, upload: BinaryIO) -> bool:
        """Tell by its first bytes whether a file is a gzipped tar archive.

        What makes its reader crash is none. Raises what is our fault, as `unpack` does.
        """
        try:
            document = self._read([upload.fileno()], self._limits, key="", is_wanted=_always)
            return read_flag(document.get("is_tar_gz"))
        except (BuildError, BadAnswer):
            return False

    def unpack(
        self,
        archive: BinaryIO,
        into: int,
        *,
        key: str = "",
        is_wanted: Callable[[], bool] = _always,
        max_bytes: int | None = None,
    ) -> Unpacked:
        """Unpack an archive into an empty folder, given by descriptor, and read its manifest.

        The folder is the reader's from then on; when this returns, nobody writes to it any more.
        Where a reading is cut off, its last write may race with the removal of the folder, which
        follows no link. `key` names the reading for `cancel`; `is_wanted` is asked once, when
        `cancel` can already reach it; `max_bytes` is the room for this one. Raises BuildError when
        the archive is at fault, OSError and ReaderFailed when we are, NoRoomToUnpack, and
        ReadingCancelled.
        """
        if os.geteuid() == 0:
            os.fchown(into, SANDBOX_UID, SANDBOX_GID)
        limits = self._limits
        if max_bytes is not None:
            limits = replace(limits, max_bytes=min(limits.max_bytes, max_bytes))
        fds = [archive.fileno(), into]
        try:
            document = self._read(fds, limits, key=key, is_wanted=is_wanted)
        except BuildError as exc:
            # The text is the archive's own reader's; who forges it has nothing of it but a wait.
            if limits != self._limits and str(exc) == str(too_large(limits.max_bytes)):
                raise NoRoomToUnpack from exc
            raise
        try:
            return read_unpacked(document.get("unpacked"), limits)
        except BadAnswer as exc:
            raise _nonsense(exc) from exc

    def cancel(self, key: str) -> None:
        """End the readings of that name, if there are any."""
        with self._lock:
            for reading in self._readings:
                if reading.key == key:
                    reading.cancel()

    # --- one reading ---

    def _read(
        self, fds: Sequence[int], limits: ArchiveLimits, *, key: str, is_wanted: Callable[[], bool]
    ) -> dict[str, Any]:
        """Have one archive read; return the document, which is no error and else unchecked."""
        with ExitStack() as ours, ExitStack() as theirs:
            lease, lease_end = socket.socketpair()
            ours.enter_context(lease)
            theirs.enter_context(lease_end)
            answer_fd, answer_end = os.pipe()
            ours.callback(os.close, answer_fd)
            theirs.callback(os.close, answer_end)
            with self._registered(_Reading(lease, key)):
                if not is_wanted():
                    raise ReadingCancelled
                self._send([lease_end.fileno(), answer_end, *fds], limits)
                theirs.close()
                end = self._listen(lease, answer_fd)
        return self._judge(end)

    @contextmanager
    def _registered(self, reading: _Reading) -> Iterator[None]:
        """Let `cancel` and `stop` reach a reading; whatever came of it then, it was cancelled."""
        with self._lock:
            self._readings.add(reading)
        try:
            yield
        except ReaderFailed:
            if not reading.is_cancelled:
                raise
        finally:
            with self._lock:
                self._readings.remove(reading)
                self._idle_at = time.monotonic() + _IDLE_SECONDS
        if reading.is_cancelled:
            raise ReadingCancelled

    def _listen(self, lease: socket.socket, answer_fd: int) -> _End:
        """Read the answer until the guard tells the end. Raises ReaderFailed, ReadingCancelled."""
        os.set_blocking(answer_fd, False)
        deadline = time.monotonic() + self._wall_seconds + _GUARD_GRACE_SECONDS
        poller = select.poll()
        poller.register(lease, select.POLLIN)
        poller.register(answer_fd, select.POLLIN)
        answer = bytearray()
        while (left := deadline - time.monotonic()) > 0:
            events = dict(poller.poll(left * 1000))
            if answer_fd in events and not self._take(answer_fd, answer):
                poller.unregister(answer_fd)
                if len(answer) > self._max_answer_bytes:
                    hang_up(lease)
            if lease.fileno() in events:
                told = _receive_end(lease)
                while self._take(answer_fd, answer):
                    pass
                return _End(**told, answer=bytes(answer))
        with self._lock:
            self._retire()
        raise ReaderFailed("the guard did not answer")

    def _take(self, answer_fd: int, answer: bytearray) -> bool:
        """Read once; return False when no more is there or wanted."""
        try:
            piece = os.read(answer_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        answer += piece
        return bool(piece) and len(answer) <= self._max_answer_bytes

    def _judge(self, end: _End) -> dict[str, Any]:
        """Return the document of a reading that ended well; raise whatever else came of it."""
        self._judge_by_observation(end)
        try:
            document = read_answer(end.answer)
            if "error" in document:
                raise BuildError(read_text(document["error"]))
            if "errno" in document:
                number = read_errno(document["errno"])
                raise OSError(number, f"{os.strerror(number)} (while an archive was unpacked)")
            if "failure" in document:
                raise ReaderFailed(quoted(read_text(document["failure"]), 2000))
        except BadAnswer as exc:
            raise _nonsense(exc) from exc
        return document

    def _judge_by_observation(self, end: _End) -> None:
        """Raise for what was seen from outside, whatever the reading may have answered."""
        if end.is_overdue:
            raise BuildError(
                f"Reading the archive takes longer than {self._wall_seconds:.0f} s: "
                "leave out what is not needed."
            )
        if len(end.answer) > self._max_answer_bytes:
            raise _nonsense(BadAnswer("too long"))
        if os.WIFSIGNALED(end.status):
            self._judge_signal(os.WTERMSIG(end.status), end.cpu_seconds)
        if end.status != 0:
            raise ReaderFailed(f"the reading ended with status {end.status}")

    def _judge_signal(self, number: int, cpu_seconds: float) -> None:
        is_kill = number == signal.SIGKILL
        if number == signal.SIGXCPU or (is_kill and cpu_seconds >= self._cpu_seconds):
            raise BuildError(
                f"Reading the archive takes more than {self._cpu_seconds} s of computing: "
                "leave out what is not needed."
            )
        if is_kill:
            raise ReaderFailed("the reading was killed")  # by the operator, or for lack of memory
        logger.error("event=reading_crashed signal=%d", number)
        raise BuildError(
            f"The archive could not be read: its reader crashed (signal {number}); "
            f"{_MAKE_IT_AGAIN}."
        )

    # --- the process ---

    def _send(self, fds: Sequence[int], limits: ArchiveLimits) -> None:
        """Hand a reading over; a process that died meanwhile is replaced. Raises OSError."""
        message = {
            "limits": asdict(limits),
            "wall_seconds": self._wall_seconds,
            "cpu_seconds": self._cpu_seconds,
        }
        with self._lock:
            try:
                self._try_to_send(message, fds)
            except (BrokenPipeError, ConnectionResetError):
                self._try_to_send(message, fds)

    def _try_to_send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        try:
            send_message(self._living_control(), message, fds)
        except OSError:
            self._retire()  # it is gone, or half a frame may have been sent
            raise

    def _living_control(self) -> socket.socket:
        if self._is_stopping:
            raise ReadingCancelled
        if self._process is None or self._process.poll() is not None:
            self._retire()
            self._spawn()
        if self._control is None:
            raise ReaderFailed("there is no reader")
        return self._control

    def _spawn(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_SEND_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_READER_PATH), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={"LANG": "C.UTF-8"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the server's terminal is not for the reader
            )
        logger.info("event=reader_started pid=%d", self._process.pid)

    def _retire(self) -> None:
        """Hang up on the process and see it gone; its guards and readings go with it."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _receive_end(lease: socket.socket) -> dict[str, Any]:
    try:
        told, _fds = receive_message(lease)
    except (EOFError, OSError) as exc:
        raise ReaderFailed("the reader ended unexpectedly") from exc
    if "error" in told:
        raise ReaderFailed(str(told["error"]))
    return told


def _nonsense(exc: BadAnswer) -> BuildError:
    """Return what the sender hears; the operator hears what it means."""
    logger.error("event=reading_answered_nonsense what=%r", str(exc))
    return BuildError(f"The archive could not be read; {_MAKE_IT_AGAIN}.")
