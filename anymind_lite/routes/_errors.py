"""The one table that turns what went wrong into a status and one sentence."""

import logging
from http import HTTPStatus

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from anymind_lite.database import is_disk_full, is_locked
from anymind_lite.errors import (
    AgentBusy,
    AnymindError,
    DatabaseDamaged,
    DiskFull,
    EndNotWritten,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Overloaded,
    StillRunning,
    TooLarge,
)
from anymind_lite.routes._urls import execution_url

logger = logging.getLogger(__name__)

STATUSES: dict[type[AnymindError], HTTPStatus] = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    NotAllowed: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    AgentBusy: HTTPStatus.TOO_MANY_REQUESTS,
    DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
    DatabaseDamaged: HTTPStatus.INTERNAL_SERVER_ERROR,
    StillRunning: HTTPStatus.CONFLICT,
}

# werkzeug's own texts speak to people before a browser.
_HTTP_SENTENCES = {
    400: "The request is malformed",
    404: "There is nothing at this address",
    405: "This address does not take this method",
    413: "The request is too large",
    416: "The requested range does not exist",
}

DISK_FULL = "The server's disk is full"
_LOCKED = "Another program holds the server's database"
_LOCKED_SECONDS = 5
_INTERNAL = "Internal server error"


def register_error_handler(app: Flask) -> None:
    """Answer every exception of every request from this table."""
    app.register_error_handler(Exception, answer_error)


def answer_error(error: Exception) -> Response:
    """Return the answer to an error: always JSON, never internals."""
    if isinstance(error, EndNotWritten):
        return _answer_not_written(error)
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if status is not None:
        return _answer_known(status, error)
    if isinstance(error, HTTPException):
        return _answer_http(error)
    if is_disk_full(error):
        logger.error("event=disk_full method=%s endpoint=%s", request.method, request.endpoint)
        return _answer(HTTPStatus.INSUFFICIENT_STORAGE, DISK_FULL)
    if is_locked(error):
        logger.error(
            "event=database_locked method=%s endpoint=%s", request.method, request.endpoint
        )
        return _answer_known(HTTPStatus.SERVICE_UNAVAILABLE, Overloaded(_LOCKED, _LOCKED_SECONDS))
    if isinstance(error, RecursionError | OverflowError):
        # Bodies and ids are bounded before they get far, so this is the second line of defence.
        logger.warning("event=absurd_input endpoint=%s", request.endpoint, exc_info=error)
        return _answer(HTTPStatus.BAD_REQUEST, "A value is too large or nested too deeply")
    logger.error(
        "event=request_failed method=%s endpoint=%s",
        request.method,
        request.endpoint,
        exc_info=error,
    )
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL)


def _answer_not_written(error: EndNotWritten) -> Response:
    """Answer as to what kept an end from being written, and say where it will be told."""
    cause = error.__cause__
    response = answer_error(cause if isinstance(cause, Exception) else RuntimeError())
    why = response.get_json()["detail"]
    response.data = jsonify({"detail": f"{why}. {error}"}).data
    # Clients that obey it by themselves would execute it a second time.
    response.headers.pop("Retry-After", None)
    response.headers["Location"] = execution_url(error.execution_id)
    return response


def _answer_known(status: HTTPStatus, error: Exception) -> Response:
    response = _answer(status, str(error))
    response.headers.update(headers_of(error))
    if isinstance(error, StillRunning):
        response.headers["Location"] = execution_url(error.execution_id)
    return response


def headers_of(error: Exception) -> dict[str, str]:
    """Return the headers that belong to the answer to an error of ours."""
    if isinstance(error, NotAuthenticated):
        return {"WWW-Authenticate": "Bearer"}  # RFC 9110, section 11.6.1
    if isinstance(error, Overloaded):
        return {"Retry-After": str(error.retry_after_seconds)}
    return {}


def _answer_http(error: HTTPException) -> Response:
    if isinstance(error.response, Response):
        return error.response
    status = error.code or 500
    if status >= 500:
        logger.error("event=request_failed status=%d", status, exc_info=error)
        return _answer(status, _INTERNAL)
    response = _answer(status, _HTTP_SENTENCES.get(status, error.name))
    for name, value in error.get_headers():
        if name.lower() != "content-type":
            response.headers[name] = value
    return response


def _answer(status: int, detail: str) -> Response:
    response = jsonify({"detail": detail})
    response.status_code = status
    return response
