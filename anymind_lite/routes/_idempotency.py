"""The Idempotency-Key header of a request, and what tells that an answer is a repeated one."""

from flask import Request, Response

from anymind_lite.errors import InvalidInput
from anymind_lite.services.idempotency import MAX_KEY_CHARS

PARAMETER = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Any text of your choice, new for each request. Asking again within 24 hours "
    "with the same key and body does nothing twice: the answer is the earlier one, with "
    "`Idempotent-Replayed: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
}


def read_key(request: Request) -> str | None:
    """Return the key, or None when there is none. Raises InvalidInput."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    key = key.strip()
    if not 1 <= len(key) <= MAX_KEY_CHARS or not _is_plain(key):
        raise InvalidInput(
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters"
        )
    return key


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def mark_replay(response: Response) -> Response:
    """Tell that the answer is that of an earlier request."""
    response.headers["Idempotent-Replayed"] = "true"
    return response
