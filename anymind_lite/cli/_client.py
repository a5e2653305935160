"""A client of the public API, over `http.client`: what the commands use that talk to a server."""

import http.client
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from anymind_lite.errors import AnymindError

_TIMEOUT_SECONDS = 120.0


class ApiError(AnymindError):
    """The server refused, or did not answer; `status` is 0 when it did not."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{detail} (HTTP {status})" if status else detail)
        self.status = status
        self.detail = detail


class ApiClient:
    """Calls one server, as nobody, with an API key, or with a token."""

    def __init__(self, url: str, *, api_key: str = "", token: str = "") -> None:
        self.url = url
        self._headers = {}
        if api_key:
            self._headers["X-API-Key"] = api_key
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Any:
        """GET a path below /api/v1 and return its JSON. Raises ApiError."""
        return self._call("GET", path)

    def post(self, path: str, value: Any = None) -> Any:
        """POST a JSON value to a path below /api/v1. Raises ApiError."""
        return self._send("POST", path, value)

    def patch(self, path: str, value: Any) -> Any:
        """PATCH a JSON value to a path below /api/v1. Raises ApiError."""
        return self._send("PATCH", path, value)

    def _send(self, method: str, path: str, value: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        body = b"" if value is None else json.dumps(value).encode()
        return self._call(method, path, body, headers)

    def upload(self, path: str, filename: str, content: bytes) -> Any:
        """POST a file as the form field `file` (RFC 7578). Raises ApiError."""
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
            "Content-Type: application/gzip\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._call("POST", path, body, headers)

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Any = None) -> Any:
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(
            where.hostname or "", where.port, timeout=_TIMEOUT_SECONDS
        )
        try:
            connection.request(
                method, f"/api/v1{path}", body=body, headers={**self._headers, **(headers or {})}
            )
            response = connection.getresponse()
            text = response.read()
        except OSError as exc:
            raise ApiError(0, f"{self.url} does not answer: {exc}") from exc
        finally:
            connection.close()
        return _read_answer(response.status, text)


def _read_answer(status: int, text: bytes) -> Any:
    try:
        value = json.loads(text) if text else None
    except ValueError as exc:
        raise ApiError(status, "The server did not answer in JSON") from exc
    if status >= 400:
        detail = value.get("detail", "") if isinstance(value, dict) else ""
        raise ApiError(status, str(detail))
    return value
