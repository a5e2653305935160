"""The Prefer header of a request (RFC 7240): how long a client wants to wait for an execution."""

from dataclasses import dataclass

from werkzeug.http import parse_list_header, unquote_header_value

_RESPOND_ASYNC = "respond-async"
_WAIT = "wait"
_MAX_DIGITS = 9

PARAMETER = {
    "in": "header",
    "name": "Prefer",
    "description": "`respond-async`: answer 202 at once and run in the background. `wait=N`: "
    "answer 202 unless it has ended within N seconds (RFC 7240). Any other is ignored.",
    "schema": {"type": "string", "example": "respond-async, wait=5"},
}


@dataclass(frozen=True)
class Preference:
    """What is honoured of the header: `patience_seconds` is None for a client that waits."""

    patience_seconds: float | None = None
    applied: str = ""


def read_preference(header: str) -> Preference:
    """Read the Prefer header, as joined by WSGI; what is unknown or malformed does not count.

    Of a preference that stands twice the first counts (RFC 7240, section 2).
    """
    wanted: dict[str, str] = {}
    for item in parse_list_header(header):
        name, _, value = item.partition(";")[0].partition("=")
        wanted.setdefault(name.strip().lower(), unquote_header_value(value.strip()))
    applied, patience = [], None
    if _RESPOND_ASYNC in wanted:
        applied.append(_RESPOND_ASYNC)
        patience = 0.0
    digits = wanted.get(_WAIT, "")
    if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS:
        applied.append(f"{_WAIT}={int(digits)}")
        patience = float(digits)
    return Preference(patience, ", ".join(applied))
