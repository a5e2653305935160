"""Addresses: the ids in them, and where an execution is found."""

import re
from typing import Any

from flask import url_for
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from anymind_lite.credentials import MAX_ID

_ID = re.compile(r"[0-9]{1,19}")


class IdConverter(BaseConverter):
    """An id in plain digits that fits SQLite's 64 bits; anything else is simply not there."""

    def to_python(self, value: str) -> int:
        """Read an id; raises werkzeug's NotFound.

        Not ValidationError: the search would go on, and end in 405 where an address with another
        method matches too.
        """
        if _ID.fullmatch(value) is None or int(value) > MAX_ID:
            raise NotFound
        return int(value)


def id_parameter_schema(_: IdConverter) -> dict[str, Any]:
    """Return the OpenAPI schema of an id."""
    return {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}


def execution_url(execution_id: int) -> str:
    """Return the address of an execution."""
    return url_for("runtime.get_execution", execution_id=execution_id)
