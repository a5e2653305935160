"""The API's description: the OpenAPI document, the page that shows it, and where they are."""

import hashlib
import json
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request, send_file

from anymind_lite.errors import NotFound
from anymind_lite.routes._context import backend

CONSOLE_DIR = Path(__file__).parent.parent / "console"

# The page loads nothing from elsewhere and runs no inline script.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSET_MAX_AGE_SECONDS = 3600
_ASSETS = ("docs.js", "docs.css", "vendor/swagger-ui/*")


def make_docs_blueprint(build_document: Callable[[], dict[str, Any]]) -> Blueprint:
    """Return the blueprint; the document is built when it is first asked for, and kept."""
    blueprint = Blueprint("docs", __name__)
    blueprint.add_url_rule("/", view_func=show_index)
    blueprint.add_url_rule("/docs", view_func=show_page)
    blueprint.add_url_rule("/openapi.json", "show_document", _document_view(build_document))
    assets = _find_assets(CONSOLE_DIR)
    blueprint.add_url_rule("/docs/assets/<path:name>", "show_asset", _asset_view(assets))
    return blueprint


def show_index() -> Any:
    """Say what this server is and where to go on."""
    settings = backend().settings
    return {
        "name": settings.app_name,
        "version": settings.app_version,
        "docs": "/docs",
        "openapi": "/openapi.json",
        "health": "/health",
    }


def show_page() -> Any:
    """Send the page that shows the document."""
    return _send_page(CONSOLE_DIR / "docs.html")


def _document_view(build_document: Callable[[], dict[str, Any]]) -> Callable[[], Any]:
    @cache
    def rendered() -> tuple[bytes, str]:
        body = json.dumps(build_document(), separators=(",", ":")).encode()
        return body, hashlib.sha256(body).hexdigest()[:32]

    building = threading.Lock()  # a document can be built once, and two may ask first

    def show_document() -> Any:
        with building:
            body, etag = rendered()
        response = Response(body, mimetype="application/json")
        response.headers["Cache-Control"] = "no-cache"
        response.set_etag(etag)
        return response.make_conditional(request)

    return show_document


def _asset_view(assets: dict[str, Path]) -> Callable[[str], Any]:
    def show_asset(name: str) -> Any:
        if name not in assets:
            raise NotFound("There is nothing at this address")
        response = send_file(assets[name], max_age=_ASSET_MAX_AGE_SECONDS)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    return show_asset


def _find_assets(folder: Path) -> dict[str, Path]:
    """Return the files that may be served, by their names: requests are looked up, never joined."""
    found = (path for pattern in _ASSETS for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def _send_page(path: Path) -> Response:
    if not path.is_file():
        raise NotFound("The documentation page is not installed; see /openapi.json")
    response = send_file(path, max_age=0)
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response
