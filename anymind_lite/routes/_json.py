"""Reading what a request says: JSON bodies strictly, query strings, and one sentence when wrong."""

from typing import Any, NoReturn, cast

from flask import Request
from marshmallow import Schema, ValidationError
from webargs.flaskparser import FlaskParser

from anymind_lite.errors import InvalidInput
from anymind_lite.routes._bodies import check_json
from anymind_lite.routes._context import backend
from anymind_lite.strict_json import StrictJsonError, parse_json


class StrictParser(FlaskParser):
    """Hands schemas strictly read input; what does not fit them is InvalidInput in one sentence.

    Unknown fields are ignored, as the system ignored them that the API contract was written for.
    """

    DEFAULT_VALIDATION_STATUS = 400
    # None leaves it to the schema; they exclude.
    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {}  # noqa: RUF012 (webargs declares it so)

    def load_json(self, req: Request, schema: Schema) -> dict[str, Any]:
        """Read the body as an object."""
        return read_object(req, max_bytes=backend().settings.payload_max_bytes)

    def handle_error(
        self, error: ValidationError, req: Request, schema: Schema, **_: object
    ) -> NoReturn:
        """Turn what a schema found into one sentence that names the fields."""
        raise InvalidInput(_sentence(cast(dict[str, Any], error.messages)))


def read_object(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """Return the body as a JSON object; raises InvalidInput and TooLarge."""
    if not request.is_json:
        raise InvalidInput("Send the body as JSON with the header Content-Type: application/json")
    check_json(request.content_length or 0, max_bytes)
    request.max_content_length = max_bytes  # holds for a body of unannounced length too
    body = request.get_data(cache=False)
    if not body.strip():
        raise InvalidInput("The body is empty; send a JSON object")
    try:
        value = parse_json(body)
    except StrictJsonError as exc:
        raise InvalidInput(f"The body is not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object")
    return value


def _sentence(messages: dict[str, Any]) -> str:
    """Flatten `{"json": {"name": ["is required"]}}` to `name is required`."""
    found = [
        f"{field} {text}"
        for fields in messages.values()
        for field, texts in fields.items()
        for text in texts
    ]
    return "; ".join(found)
