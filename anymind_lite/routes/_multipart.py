"""Reading one file out of a multipart body, without holding or spooling it.   (hostile input)"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from anymind_lite.errors import InvalidInput

_CHUNK_BYTES = 64 * 1024
_MAX_PARTS = 20
# What the decoder may hold back: the headers of a part, or what stands outside the parts.
_MAX_HELD_BYTES = 32 * 1024
_MAX_BOUNDARY_CHARS = 200  # RFC 2046, section 5.1.1, says 70; some clients write a little more

_TRUNCATED = "The upload ended early; send the whole file again"
_MALFORMED = "The multipart body is malformed"


@dataclass(frozen=True)
class FilePart:
    """A file on its way in: `chunks` can be read once.

    It ends only when the whole body was in order, else it raises InvalidInput: whoever stores the
    chunks keeps nothing unless it ended.
    """

    filename: str
    chunks: Iterator[bytes]


def read_file_part(request: Request, field: str) -> FilePart:
    """Find the file with this field name; raises InvalidInput. Other parts are passed over."""
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary.isascii():
        raise InvalidInput("Send the archive as multipart/form-data")
    if not 1 <= len(boundary) <= _MAX_BOUNDARY_CHARS:
        raise InvalidInput(
            f"The multipart boundary must have 1 to {_MAX_BOUNDARY_CHARS} characters"
        )
    events = _events(request.stream, boundary.encode())
    for event in events:
        if isinstance(event, File) and event.name == field:
            return FilePart(event.filename, _chunks(events, field))
    raise InvalidInput(f"Send the archive as the form field '{field}', with a file name")


def _chunks(events: Iterator[Event], field: str) -> Iterator[bytes]:
    """Yield the data of the part that just began, then read on to the end of the body."""
    for event in events:
        if isinstance(event, Data):
            if event.data:
                yield event.data
            if not event.more_data:
                break
    for event in events:
        if isinstance(event, File | Field) and event.name == field:
            raise InvalidInput(f"Send only one form field '{field}'")


def _events(stream: IO[bytes], boundary: bytes) -> Iterator[Event]:
    """Yield the events of a whole body; raises InvalidInput when it is not whole."""
    decoder = MultipartDecoder(boundary, max_parts=_MAX_PARTS)
    while True:
        _feed(decoder, stream)
        while not isinstance(event := _next_event(decoder), NeedData):
            yield event
            if isinstance(event, Epilogue):
                return
        if len(decoder.buffer) > _MAX_HELD_BYTES:
            raise InvalidInput(_MALFORMED)


def _feed(decoder: MultipartDecoder, stream: IO[bytes]) -> None:
    try:
        decoder.receive_data(stream.read(_CHUNK_BYTES) or None)
    except ClientDisconnected as exc:
        raise InvalidInput(_TRUNCATED) from exc


def _next_event(decoder: MultipartDecoder) -> Event:
    try:
        return decoder.next_event()
    except RequestEntityTooLarge as exc:
        raise InvalidInput(f"The multipart body has more than {_MAX_PARTS} parts") from exc
    except ValueError as exc:
        # It says so too when the body ends before the last boundary.
        raise InvalidInput(_TRUNCATED if decoder.complete else _MALFORMED) from exc
