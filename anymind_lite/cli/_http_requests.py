"""Requests on their way in: how much is kept of them, and how they are refused.   (hostile input)

waitress takes a request as a whole, with its body, before the application hears of it: what the
application would refuse by the headers alone is refused here, before its body fills the disk.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from waitress.parser import HTTPRequestParser, ParsingError, get_header_lines
from waitress.task import ErrorTask
from waitress.utilities import BadRequest, Error

from anymind_lite.database import is_disk_full
from anymind_lite.errors import AnymindError, Overloaded
from anymind_lite.routes._bodies import BodyRules
from anymind_lite.routes._errors import DISK_FULL, STATUSES, headers_of

logger = logging.getLogger(__name__)

# Larger bodies go into a temporary file. Smaller ones stay in memory, and only the number of
# connections bounds them: what nobody has signed for is counted and small.
IN_MEMORY_BYTES = 128 * 1024
# The line before a chunk, and the lines after the last: waitress itself bounds neither, and joins
# each anew with whatever comes. (test_endless_line_of_a_chunk_is_refused)
_MAX_CHUNK_LINE_BYTES = 16 * 1024
_RETRY_SECONDS = 5

_SENTENCES = {
    413: "The request body is too large",
    431: "The request headers are too large",
    500: "Internal server error",
    501: "The transfer encoding is not supported",
}
_NOT_HTTP = "The request is not valid HTTP"


class Refused(Error):
    """An answer that waitress gives in place of the application."""

    def __init__(
        self, status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.code, self.reason = status.value, status.phrase
        self.headers = headers or {}

    @classmethod
    def by(cls, error: AnymindError) -> "Refused":
        """Return the answer that the application would give to this error."""
        return cls(STATUSES[type(error)], str(error), headers_of(error))


class BodyRoom:
    """Counts the bytes of bodies that lie in files, so that all together cannot fill the disk.

    `make_room` is called, with the request that wants more, where there is none.
    """

    def __init__(self, most_bytes: int) -> None:
        self.free_bytes = most_bytes
        self.make_room: Callable[[Request], None] = lambda _: None
        self._lock = threading.Lock()

    def take(self, count: int, request: "Request") -> bool:
        """Take so many bytes for a request; False where they cannot be had."""
        if self._take(count):
            return True
        self.make_room(request)
        return self._take(count)

    def _take(self, count: int) -> bool:
        with self._lock:
            if count > self.free_bytes:
                return False
            self.free_bytes -= count
        return True

    def give_back(self, count: int) -> None:
        """Free so many bytes."""
        with self._lock:
            self.free_bytes += count


class Request(HTTPRequestParser):
    """One request as it comes in; `error` is set as soon as it is known that it will be refused."""

    def __init__(self, adj: Any, *, rules: BodyRules, room: BodyRoom) -> None:
        super().__init__(adj)
        self._rules = rules
        self._room = room
        self._held_bytes = 0

    def received(self, data: bytes) -> int:
        """Take what the connection brought; returns how much of it belonged to this request."""
        try:
            consumed: int = super().received(data)
            if self.body_rcv is not None and self.error is None:
                self._check_body()
        except AnymindError as exc:
            self.refuse(Refused.by(exc))
        except OSError as exc:
            self.refuse(_refusal_of_disk(exc))
        if self.completed:
            # waitress would ask for the body that it just refused, and wait for it.
            self.expect_continue = False
        return len(data) if self.error else consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the first line and the headers. Raises ParsingError.

        A body whose end two servers may see in two places lets what one of them takes for its rest
        through as a request to the other: no such request is served (RFC 9112, sections 6.1, 6.3).
        """
        try:
            super().parse_header(header_plus)
        except ValueError as exc:  # int() takes 4,300 digits
            raise ParsingError("a number is too long") from exc
        codings = _transfer_codings(header_plus)
        if codings is None:
            return
        if self.version != "1.1" or codings != b"chunked" or "CONTENT_LENGTH" in self.headers:
            raise ParsingError("the end of the body is ambiguous")

    def refuse(self, error: Error) -> None:
        """Answer with this error, and keep nothing of the body."""
        self.error = error
        self.completed = True
        self.close()

    def _check_body(self) -> None:
        """Raise AnymindError where the body is too much for its address, its sender or the disk."""
        body_bytes = len(self.body_rcv)
        self._rules.check(
            self.path, max(self.content_length, body_bytes), has_credentials=self._has_credentials
        )
        if self.chunked and self._longest_line > _MAX_CHUNK_LINE_BYTES:
            self.refuse(BadRequest("a chunk's line is too long"))
            return
        held_bytes = body_bytes if body_bytes >= IN_MEMORY_BYTES else 0
        if not self._room.take(held_bytes - self._held_bytes, self):
            raise no_room()
        self._held_bytes = held_bytes

    @property
    def is_in_file(self) -> bool:
        """Whether it takes of the common room."""
        return self._held_bytes > 0

    @property
    def _has_credentials(self) -> bool:
        return bool(self.headers.get("X_API_KEY") or self.headers.get("AUTHORIZATION"))

    @property
    def _longest_line(self) -> int:
        return max(len(self.body_rcv.control_line), len(self.body_rcv.trailer))

    def close(self) -> None:
        """Forget the body."""
        self._room.give_back(self._held_bytes)
        self._held_bytes = 0
        with contextlib.suppress(OSError):  # what a full disk did not take is written again here
            super().close()


def _transfer_codings(header: bytes) -> bytes | None:
    """Return the list of transfer codings, in lower case, as it stands; None where none is sent.

    waitress keeps nothing of it, and takes "chunked, chunked" and "chunked," for "chunked".
    """
    header = header.lower()
    if b"transfer-encoding" not in header:
        return None
    fields = [line.partition(b":") for line in get_header_lines(header.partition(b"\r\n")[2])]
    values = [value.strip(b" \t") for name, _, value in fields if name == b"transfer-encoding"]
    return b",".join(values) if values else None


def no_room() -> Overloaded:
    """Return the error of a request whose body finds no room."""
    return Overloaded("Too many large requests at once", _RETRY_SECONDS)


def _refusal_of_disk(error: OSError) -> Refused:
    """Return the answer where a body could not be written down."""
    if is_disk_full(error):
        logger.error("event=disk_full where=request_body")
        return Refused(HTTPStatus.INSUFFICIENT_STORAGE, DISK_FULL)
    logger.error("event=request_body_not_kept", exc_info=error)
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, _SENTENCES[500])


class JsonErrorTask(ErrorTask):
    """Answers what waitress refuses in the form of the API, readable by the same web pages."""

    def execute(self) -> None:
        """Send the answer; the connection ends with it."""
        error = self.request.error
        body = json.dumps({"detail": _sentence(error)}).encode()
        self.status = f"{error.code} {error.reason}"
        headers = self.channel.server.headers_for(self.request.headers.get("ORIGIN"))
        headers = {**headers, **getattr(error, "headers", {}), "Content-Type": "application/json"}
        self.response_headers.extend(headers.items())
        # waitress would tell a client of HTTP/1.0 that asks for it that the connection is kept.
        self.request.headers.pop("CONNECTION", None)
        self.set_close_on_finish()
        self.channel.has_refused = True
        self.content_length = len(body)
        logger.info("event=request_refused status=%d", error.code)
        self.write(body)


def _sentence(error: Error) -> str:
    if isinstance(error, Refused):
        return str(error.body)
    return _SENTENCES.get(error.code, _NOT_HTTP)
