"""Anymind Lite's own servers, each a process with a data folder, and a client that sets them up."""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
RUN_PY = (sys.executable, str(ROOT / "run.py"))
_STOP_SECONDS = 60

# What agents find in their environment. Peers get it too, and children without that layer: threads
# that NumPy starts for nothing would slow them down.
VARIABLES = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

# A server without layers is made by replacing the stub: the product has no such switch.
_LAUNCHER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from anymind_lite.cli import main
from anymind_lite.sandbox.in_server import supervisor

supervisor._STUB_PATH = Path({stub!r})
main()
"""
_BARE_STUB = """
import os, sys
sys.path.insert(0, {root!r})
os.environ.update({variables!r})
from anymind_lite.sandbox.in_child import layers
layers.LAYERS = ()
from anymind_lite.sandbox.in_zygote import ground, stub

def refuse(*_):
    raise OSError(1, "refused by the measurement")

ground.LAYERS = ()
ground.probe = refuse
ground.become_sandbox_user = lambda _: None
ground.linux_landlock.why_not = ground.linux_seccomp.why_not = lambda: "refused"
stub.main()
"""
# Templates need namespaces, a session by which their processes are counted, and no open descriptor;
# in namespaces a run sees its code by its mounts. Those layers stay, which a template puts up once
# and no run again; and of the last one what enters the scratch folder.
KEPT_FOR_TEMPLATES = ("descriptors", "mounts", "session")
_BARE_TEMPLATES_STUB = """
import dataclasses, os, sys
sys.path.insert(0, {root!r})
os.environ.update({variables!r})
from anymind_lite.sandbox.in_child import layers

def enter(confinement):
    os.chdir(confinement.scratch_dir)

kept = [one for one in layers.LAYERS if one.name in {kept!r}]
layers.LAYERS = (*kept, dataclasses.replace(layers.LAYERS[-1], apply=enter))
from anymind_lite.sandbox.in_zygote import stub
stub.main()
"""


class Client:
    """A kept-alive connection that speaks JSON: for setting up, and where a millisecond is much."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port)
        self.headers = {"Content-Type": "application/json"}

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "",
        *,
        base: str = "/api/v1",
    ) -> Any:
        """Send one request and return its JSON. Raises RuntimeError from status 400 on."""
        headers = self.headers | ({"Content-Type": content_type} if content_type else {})
        self._connection.request(method, f"{base}{path}", body, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text!r}")
        return json.loads(text)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()


def start_server(
    data: str, *, program: Sequence[str] = RUN_PY, **settings: str
) -> tuple["subprocess.Popen[str]", str]:
    """Start a program that understands `serve`; return the process and its URL."""
    command = [*program, "serve", "--port", "0", "--data", data]
    environment = {**os.environ, "LOG_LEVEL": "ERROR", **settings}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = server.stdout.readline() if server.stdout else ""
    if not line.startswith("Serving at "):
        stop_server(server)
        raise RuntimeError(f"the server did not start: {line.strip() or 'it said why above'}")
    return server, line.split()[2]


def stop_server(server: "subprocess.Popen[str]") -> None:
    """End a server and wait for its end."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(_STOP_SECONDS)
    finally:
        server.kill()
        if server.stdout is not None:
            server.stdout.close()


@contextmanager
def serving(
    data: Path, *, program: Sequence[str] = RUN_PY, **settings: str
) -> Iterator[tuple["subprocess.Popen[str]", Client, str]]:
    """Run a server with one user; yield the process, a client that is this user, and the URL."""
    server, url = start_server(str(data), program=program, **settings)
    try:
        client = Client(url)
        sign_up(client)
        yield server, client, url
        client.close()
    finally:
        stop_server(server)


def bare_program(folder: Path, *, has_templates: bool = False) -> tuple[str, str]:
    """Write what starts a server whose children apply no layer.

    They have no namespaces either, unless there are to be templates.
    """
    text = _BARE_TEMPLATES_STUB if has_templates else _BARE_STUB
    text = text.format(root=str(ROOT), kept=KEPT_FOR_TEMPLATES, variables=VARIABLES)
    launcher, stub = folder / "launcher.py", folder / "stub.py"
    stub.write_text(text, encoding="utf-8")
    launcher.write_text(_LAUNCHER.format(root=str(ROOT), stub=str(stub)), encoding="utf-8")
    return sys.executable, str(launcher)


def sign_up(client: Client) -> None:
    """Make a user and a key, and use the key from here on."""
    person = {"email": "b@example.com", "username": "bench", "password": "correct horse"}
    client.call("POST", "/auth/register", json.dumps(person).encode())
    token = client.call("POST", "/auth/login", json.dumps(person).encode())["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    key = client.call("POST", "/api-keys", b'{"name": "bench"}')["key"]
    del client.headers["Authorization"]
    client.headers["X-API-Key"] = key


def deploy_agent(client: Client, folder: Path) -> int:
    """Make a ready agent of a folder; return its id. Raises RuntimeError when the build fails."""
    agent_id = new_agent(client, folder.name)
    version = upload(client, agent_id, pack(folder))
    version = wait_for_build(client, agent_id, version["id"], pause_seconds=0.01)
    if version["status"] != "ready":
        raise RuntimeError(f"the build of {folder.name} failed:\n{version['build_log']}")
    return agent_id


def new_agent(client: Client, name: str) -> int:
    """Make an agent without a version; return its id."""
    return int(client.call("POST", "/agents", json.dumps({"name": name}).encode())["id"])


def upload(client: Client, agent_id: int, archive: bytes) -> Any:
    """Upload an archive; return the version."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.tar.gz"\r\n\r\n'
    form = head + archive + b"\r\n--b--\r\n"
    content_type = "multipart/form-data; boundary=b"
    return client.call("POST", f"/uploads/agent/{agent_id}", form, content_type)


def wait_for_build(client: Client, agent_id: int, version_id: int, *, pause_seconds: float) -> Any:
    """Ask until a build has ended; return the version."""
    while True:
        version = client.call("GET", f"/agents/{agent_id}/versions/{version_id}")
        if version["status"] in ("ready", "failed"):
            return version
        time.sleep(pause_seconds)


def pack(folder: Path) -> bytes:
    """Return a .tar.gz of a folder, without what Python compiled."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname=".", filter=_without_compiled)
    return buffer.getvalue()


def _without_compiled(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith("__pycache__") else member
