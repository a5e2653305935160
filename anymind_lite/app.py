"""The Flask application: routes, errors, CORS, headers and the request log, around a backend."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask, Response, g, request
from flask.json.provider import DefaultJSONProvider
from flask_cors.core import (
    DEFAULT_OPTIONS,
    get_cors_headers,
    serialize_options,
    set_cors_headers,
)
from werkzeug.datastructures import Headers

from anymind_lite.routes import agents, api_keys, auth, health, logs, runtime, system, uploads
from anymind_lite.routes._bodies import BodyRules
from anymind_lite.routes._context import EXTENSION
from anymind_lite.routes._errors import register_error_handler
from anymind_lite.routes._limits import limit_sign_in
from anymind_lite.routes._openapi import build_document, make_api
from anymind_lite.routes._urls import IdConverter
from anymind_lite.routes.docs import make_docs_blueprint

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from anymind_lite.backend import Backend

logger = logging.getLogger(__name__)

_BLUEPRINTS = (
    auth.blueprint,
    api_keys.blueprint,
    agents.blueprint,
    uploads.blueprint,
    runtime.blueprint,
    logs.blueprint,
    system.blueprint,
    health.blueprint,
)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

_CORS_METHODS = ["GET", "POST", "PATCH", "DELETE"]
_CORS_REQUEST_HEADERS = ["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-API-Key"]
_CORS_ANSWER_HEADERS = ["Idempotent-Replayed", "Location", "Preference-Applied", "Retry-After"]
_CORS_MAX_AGE_SECONDS = 600

_MAX_LOGGED_PATH_CHARS = 200


class JsonResponse(Response):
    """An answer that is JSON unless it says otherwise; Flask's own default is HTML."""

    default_mimetype = "application/json"


class _Application(Flask):
    """Flask, where nothing that a request calls is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is; Flask would look into each, in every request."""
        return func


def create_app(backend: "Backend") -> Flask:
    """Return the WSGI application that serves a backend; starts and opens nothing."""
    # No static folder, no sessions: everything served has a route of its own.
    app = _Application("anymind_lite", static_folder=None)
    app.response_class = JsonResponse
    app.extensions[EXTENSION] = backend
    settings = backend.settings
    app.config["MAX_CONTENT_LENGTH"] = BodyRules.of(settings).largest_bytes
    _configure_urls_and_json(app)
    register_error_handler(app)
    api = make_api(app, title=settings.app_name, version=settings.app_version)
    for blueprint in _BLUEPRINTS:
        api.register_blueprint(blueprint)
    app.register_blueprint(make_docs_blueprint(lambda: build_document(api)))
    limit_sign_in(app, login=settings.login_rate_limit, register=settings.register_rate_limit)
    _allow_origins(app, settings.cors_origins)
    _set_headers(app)
    _log_requests(app)
    return app


def _configure_urls_and_json(app: Flask) -> None:
    app.url_map.converters["id"] = IdConverter
    # Redirects would answer in HTML: /agents/ is the same as /agents, and // is nothing.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    if isinstance(app.json, DefaultJSONProvider):
        app.json.sort_keys = False
        app.json.compact = True


def _allow_origins(app: Flask, origins: tuple[str, ...]) -> None:
    """Answer preflights and mark answers for the configured origins; no cookies are involved."""
    if not origins:
        return
    options = serialize_options({**DEFAULT_OPTIONS, **_cors_options(origins)})

    @app.after_request
    def allow_origin(response: Response) -> Response:
        # flask-cors's own hook looks for a rule of the address first, in every request of anybody.
        return set_cors_headers(response, options) if "HTTP_ORIGIN" in request.environ else response


def _cors_options(origins: tuple[str, ...]) -> Any:
    allows_all = "*" in origins
    return {
        # flask-cors takes text with a bracket, so every IPv6 origin, for a pattern of its own.
        "origins": "*" if allows_all else [_exactly(origin) for origin in origins],
        "send_wildcard": allows_all,
        "methods": _CORS_METHODS,
        "allow_headers": _CORS_REQUEST_HEADERS,
        "expose_headers": _CORS_ANSWER_HEADERS,
        "max_age": _CORS_MAX_AGE_SECONDS,
        # Otherwise a request without an origin is answered with the whole list.
        "always_send": False,
    }


def headers_for(origins: tuple[str, ...]) -> Callable[[str | None], dict[str, str]]:
    """Return what tells the headers of every answer, by the origin of the page that asks.

    For answers that never come to the application: a page must be able to read those too.
    """
    if not origins:
        return lambda _: dict(_HEADERS)
    options = serialize_options({**DEFAULT_OPTIONS, **_cors_options(origins)})

    def headers(origin: str | None) -> dict[str, str]:
        asked = Headers({"Origin": origin} if origin else {})
        cors = get_cors_headers(options, asked, "GET")
        return {**_HEADERS, **{name: str(value) for name, value in cors.items()}}

    return headers


def _exactly(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text) + r"\Z", re.IGNORECASE)


def _set_headers(app: Flask) -> None:
    """Add what every answer says, unless a view has said otherwise.

    To the list that goes out: each name in werkzeug's own costs as much as finding a row.
    """
    answer = app.wsgi_app
    always = [(name.lower(), (name, value)) for name, value in _HEADERS.items()]

    def answer_with_headers(environ: "WSGIEnvironment", begin: "StartResponse") -> Iterable[bytes]:
        def begin_with_headers(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            said = {name.lower() for name, _ in headers}
            missing = [header for name, header in always if name not in said]
            return begin(status, headers + missing, *error)

        return answer(environ, begin_with_headers)

    app.wsgi_app = answer_with_headers  # type: ignore[method-assign, assignment]


def _log_requests(app: Flask) -> None:
    @app.before_request
    def start_clock() -> None:
        g.started = time.monotonic()

    @app.after_request
    def log_request(response: Response) -> Response:
        if logger.isEnabledFor(logging.INFO):  # or what is logged is put together for nobody
            _log_request(response)
        return response


def _log_request(response: Response) -> None:
    user = g.get("user")
    logger.info(
        "method=%s path=%s status=%d duration_ms=%.1f user_id=%s",
        request.method,
        # Quoted: a path may hold decoded line ends.
        quote(request.path[:_MAX_LOGGED_PATH_CHARS], safe="/"),
        response.status_code,
        (time.monotonic() - g.started) * 1000,
        "-" if user is None else user.id,
    )
