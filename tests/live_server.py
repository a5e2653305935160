"""A real server: `run.py serve` as a process of its own, on a free port and a data folder."""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import DEADLINE_SECONDS, wait_for

ROOT = Path(__file__).parent.parent
RUN_PY = ROOT / "run.py"
PROGRAM: Sequence[str] = (sys.executable, str(RUN_PY))  # the product; mutants take its place

# What a suite needs: cheap passwords, no limit on its many registrations.
SUITE_SETTINGS = {
    "PASSWORD_HASH_ROUNDS": "4",
    "REGISTER_RATE_LIMIT": "off",
    "LOGIN_RATE_LIMIT": "off",
    "LOG_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `json` is None where the body is empty or no JSON."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Api:
    """Plain HTTP to one server, with default headers; knows nothing of the product's own client."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.headers = dict(headers or {})

    def call(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = DEADLINE_SECONDS,
    ) -> Answer:
        """Send one request on a connection of its own."""
        sent = {**self.headers, **(headers or {})}
        if value is not None:
            body = json.dumps(value).encode()
            sent.setdefault("Content-Type", "application/json")
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def with_headers(self, **headers: str) -> "Api":
        """Return the same server with other default headers (underscores become dashes)."""
        return Api(self.url, {name.replace("_", "-"): text for name, text in headers.items()})

    # The main job, step by step -------------------------------------------------------------------

    def new_user(self, username: str) -> "Api":
        """Register, log in, make an API key; return the server as seen with that key."""
        password = "correct horse"
        user = {"email": f"{username}@example.com", "username": username, "password": password}
        assert self.call("POST", "/api/v1/auth/register", user).status == 201
        login = self.call(
            "POST", "/api/v1/auth/login", {"username": username, "password": password}
        )
        token = login.json["access_token"]
        key = self.with_headers(Authorization=f"Bearer {token}").call(
            "POST", "/api/v1/api-keys", {"name": "tests"}
        )
        return self.with_headers(X_API_Key=key.json["key"])

    def new_agent(self, name: str = "agent") -> int:
        """Create an agent and return its id."""
        return int(self.call("POST", "/api/v1/agents", {"name": name}).json["id"])

    def upload(self, agent_id: int, archive: bytes, filename: str = "agent.tar.gz") -> Answer:
        """Upload an archive as a browser would."""
        content_type, body = form_file(archive, filename)
        return self.call(
            "POST",
            f"/api/v1/uploads/agent/{agent_id}",
            body=body,
            headers={"Content-Type": content_type},
        )

    def wait_for_build(self, agent_id: int, version_id: int) -> Any:
        """Return the version once its build has ended."""
        path = f"/api/v1/agents/{agent_id}/versions/{version_id}"

        def look() -> Any:
            version = self.call("GET", path).json
            return version if version["status"] in ("ready", "failed") else None

        return wait_for(look, f"the build of version {version_id}")

    def deploy(self, archive: bytes, name: str = "agent") -> int:
        """Create an agent with one ready version and return its id."""
        agent_id = self.new_agent(name)
        answer = self.upload(agent_id, archive)
        assert answer.status == 201, answer.body
        version = self.wait_for_build(agent_id, answer.json["id"])
        assert version["status"] == "ready", version["build_log"]
        return agent_id

    def execute(self, agent_id: int, payload: Any = None) -> Answer:
        """Execute an agent."""
        path = f"/api/v1/runtime/{agent_id}/execute"
        return self.call("POST", path, {"payload": {} if payload is None else payload})


def form_file(content: bytes, filename: str, field: str = "file") -> tuple[str, bytes]:
    """Return content type and body of a form with one file."""
    boundary = "f0b1a2c3d4e5"
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
        "Content-Type: application/gzip\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def pack(files: Mapping[str, str | bytes]) -> bytes:
    """Return a .tar.gz of files given by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def pack_agent(source: str, **files: str) -> bytes:
    """Return the archive of an agent whose `main.py` is given."""
    manifest = "name: test\nentrypoint: main:handle\n"
    return pack({"anymind.yaml": manifest, "main.py": source, **files})


def pack_folder(folder: Path) -> bytes:
    """Return the archive of a folder as `tar -czf` makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


class LiveServer:
    """`run.py serve` between `with` and its end, where it must exit 0 on SIGTERM."""

    def __init__(
        self,
        data: Path,
        *,
        settings: Mapping[str, str] | None = None,
        open_files: tuple[int, int] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        self.data = data
        # What understands `serve`; other tests put something around it.
        self._program = PROGRAM if program is None else program
        self._open_files = open_files  # soft and hard
        self._settings = {**SUITE_SETTINGS, **(settings or {})}
        self._output: list[str] = []

    def start(self) -> "LiveServer":
        """Start it and wait until it says where it serves."""
        command = [*self._program, "serve", "--port", "0", "--data", str(self.data)]
        if self._open_files is not None:
            soft, hard = self._open_files
            script = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
            command = ["sh", "-c", script, "sh", *command]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **self._settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = wait_for(self._announced_url, "the server to serve")
        self.api = Api(self.url)
        return self

    def _read(self) -> None:
        if self.process.stdout is not None:
            self._output.extend(self.process.stdout)

    def _announced_url(self) -> str:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.output}")
        for line in list(self._output):
            if line.startswith("Serving at "):
                return line.split()[2]
        return ""

    @property
    def output(self) -> str:
        """Everything it has printed."""
        return "".join(self._output)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(DEADLINE_SECONDS)
        finally:
            self.process.kill()
            self._reader.join()
            if self.process.stdout is not None:
                self.process.stdout.close()
        return status

    def __enter__(self) -> "LiveServer":
        try:
            return self.start()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        status = self.stop()
        if kind is None:
            assert status == 0, self.output
            assert "Traceback" not in self.output, self.output
