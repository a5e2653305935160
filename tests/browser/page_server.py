"""What a front end's own server would do: hand out the page; also take what the page saw."""

import json
import queue
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(__file__).parent
PAGE = "/harness.html"

_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class PageServer:
    """Serves files on a free port of localhost between `with` and its end."""

    def __init__(self) -> None:
        self._files = {
            f"/{name}": (FOLDER / name).read_bytes()
            for name in ("harness.html", "harness.js", "contract_client.js")
        }
        self._headers: dict[str, str] = {}
        self.seen: queue.Queue[Any] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def origin(self) -> str:
        """The origin of its pages, written as people write it."""
        return f"http://localhost:{self._server.server_address[1]}"

    def add(self, path: str, content: bytes) -> None:
        """Serve this content too."""
        self._files[path] = content

    def add_settings(self, api_url: str, harness: Mapping[str, Any]) -> None:
        """Serve the script that stands for a build's environment, and tells the harness its job."""
        environment = {"env": {"REACT_APP_API_URL": api_url}}
        script = f"var process = {json.dumps(environment)};\nvar harness = {json.dumps(harness)};\n"
        self.add("/settings.js", script.encode())

    def add_header(self, name: str, value: str) -> None:
        """Send this header with everything."""
        self._headers[name] = value

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        files, headers, seen = self._files, self._headers, self.seen

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path not in files:
                    self.send_error(404)
                    return
                self._answer(files[self.path])

            def do_POST(self) -> None:
                seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                kind = _TYPES.get(Path(self.path).suffix, "application/octet-stream")
                self.send_response(200)
                for name, value in {"Content-Type": kind, **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> "PageServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
