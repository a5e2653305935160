"""`quickstart`: a real server, a first user, an example agent, one execution, what to type next."""

import contextlib
import io
import json
import secrets
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anymind_lite.cli import _settings
from anymind_lite.cli._client import ApiClient, ApiError
from anymind_lite.config import Settings
from anymind_lite.errors import AnymindError, StartupError
from anymind_lite.files import write_durable

if TYPE_CHECKING:
    from anymind_lite.cli._http_server import HttpServer
    from anymind_lite.sandbox.protocol import Ground

_EXAMPLE = "text_analyser"
_PORTS_TRIED = 50
_BUILD_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SHOWN_RESULT_CHARS = 300


class QuickstartFailed(AnymindError):
    """A step of the demonstration did not end as it must."""


@dataclass(frozen=True)
class Account:
    """The first user, as kept in data/quickstart.json (0600) so that a second run reuses it."""

    username: str
    password: str
    api_key: str


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration did."""

    account: Account
    is_new_account: bool
    agent_id: int
    agent_name: str
    payload: Any
    execution: dict[str, Any]
    seconds: float


@click.command("quickstart")
@click.option("--no-serve", is_flag=True, help="End after the demonstration.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000, or the next free one]")
@click.option("--data", metavar="DIR", help="Folder for everything that is stored.")
def command(no_serve: bool, as_json: bool, port: int | None, data: str | None) -> None:
    """Start a server, deploy an example agent, execute it, and go on serving."""
    chosen = {"SERVER_PORT": port, "DATA_DIR": _settings.absolute(data)}
    settings = _settings.load(chosen).settings
    wanted_port = settings.server_port
    if port is None:
        chosen["SERVER_PORT"] = _free_port(settings)
        settings = _settings.load(chosen).settings
    _settings.set_up_logging("WARNING")
    from anymind_lite.cli._running import run_server

    def demonstrate(server: "HttpServer", backend: Any) -> bool:
        if backend.sandbox.refusal:
            raise QuickstartFailed(backend.sandbox.refusal)
        shown = _demonstrate(server.url, settings.data_dir / "quickstart.json")
        lines = _report(shown, server.url, settings, backend.sandbox.ground)
        if server.port != wanted_port and wanted_port:
            lines.insert(0, f"Port {wanted_port} is taken; serving on {server.port} instead.")
        click.echo(json.dumps(_as_json(shown, server.url)) if as_json else "\n".join(lines))
        if not no_serve and not as_json:
            click.echo("Serving until Ctrl-C ...")
        return not no_serve

    run_server(settings, demonstrate)


def _free_port(settings: Settings) -> int:
    from anymind_lite.cli._http_server import is_port_free

    first = settings.server_port
    for port in range(first, min(first + _PORTS_TRIED, 65536)):
        if port == 0 or is_port_free(settings.server_host, port):
            return port
    raise StartupError(f"No port from {first} on is free; choose one with --port")


def _demonstrate(url: str, account_path: Path) -> Demonstration:
    """Do over HTTP what a first user does. Raises ApiError and QuickstartFailed."""
    account, is_new = _account(url, account_path)
    client = ApiClient(url, api_key=account.api_key)
    folder = _settings.PROJECT_DIR / "examples" / _EXAMPLE
    agent = _ready_agent(client, folder)
    payload = json.loads((folder / "payload.json").read_text(encoding="utf-8"))
    started_at = time.monotonic()
    execution = client.post(f"/runtime/{agent['id']}/execute", {"payload": payload})
    seconds = time.monotonic() - started_at
    if execution["status"] != "completed":
        raise QuickstartFailed(f"The execution failed: {execution['error_message']}")
    return Demonstration(account, is_new, agent["id"], agent["name"], payload, execution, seconds)


def _account(url: str, path: Path) -> tuple[Account, bool]:
    """Return the account of an earlier run if it still works, else a new one."""
    known = _known_account(path)
    if known is not None:
        with contextlib.suppress(ApiError):
            ApiClient(url, api_key=known.api_key).get("/agents?limit=1")
            return known, False
    account = _new_account(url)
    write_durable(path, json.dumps(asdict(account), indent=2).encode())
    return account, True


def _known_account(path: Path) -> Account | None:
    try:
        return Account(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _new_account(url: str) -> Account:
    nobody = ApiClient(url)
    password = secrets.token_urlsafe(18)
    username = _register(nobody, password)
    login = nobody.post("/auth/login", {"username": username, "password": password})
    key = ApiClient(url, token=login["access_token"]).post("/api-keys", {"name": "quickstart"})
    return Account(username, password, key["key"])


def _register(client: ApiClient, password: str) -> str:
    """Register `quickstart`, or a name with a number where that one is taken."""
    for suffix in ("", *(f"-{secrets.token_hex(2)}" for _ in range(3))):
        username = f"quickstart{suffix}"
        body = {
            "email": f"{username}@example.com",
            "username": username,
            "password": password,
            "full_name": "Quickstart",
        }
        try:
            client.post("/auth/register", body)
        except ApiError as exc:
            if exc.status != 400:
                raise
        else:
            return username
    raise QuickstartFailed("Could not register a first user: every name tried is taken")


def _ready_agent(client: ApiClient, folder: Path) -> dict[str, Any]:
    """Return the example as a ready agent, deploying it unless an earlier run has."""
    name = folder.name.replace("_", "-")
    agents: list[dict[str, Any]] = client.get("/agents?limit=1000")
    agent = next((one for one in agents if one["name"] == name), None)
    if agent is None:
        agent = client.post("/agents", {"name": name, "description": "From examples/"})
    if agent["status"] == "archived":
        agent = client.patch(f"/agents/{agent['id']}", {"status": "draft"})
    if agent["status"] != "ready":
        version = client.upload(f"/uploads/agent/{agent['id']}", f"{name}.tar.gz", _pack(folder))
        _wait_for_build(client, agent["id"], version["id"])
    return dict(agent)


def _pack(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def _wait_for_build(client: ApiClient, agent_id: int, version_id: int) -> None:
    deadline = time.monotonic() + _BUILD_SECONDS
    while time.monotonic() < deadline:
        version = client.get(f"/agents/{agent_id}/versions/{version_id}")
        if version["status"] == "ready":
            return
        if version["status"] == "failed":
            raise QuickstartFailed(f"The build failed:\n{version['build_log']}")
        time.sleep(_POLL_SECONDS)
    raise QuickstartFailed(f"The build did not end within {_BUILD_SECONDS:g} seconds")


def _report(shown: Demonstration, url: str, settings: Settings, ground: "Ground") -> list[str]:
    """Write what was done and what to type next, in at most 20 lines."""
    account, agent_id = shown.account, shown.agent_id
    kept = settings.data_dir / "quickstart.json"
    origin = "" if shown.is_new_account else ", from an earlier run"
    layers_on = sum(layer.is_on for layer in ground.layers)
    return f"""\
Executed {shown.agent_name} (agent {agent_id}) on {json.dumps(shown.payload)} in {
        shown.seconds * 1000:.0f} ms:
  {_shortened(shown.execution["output_data"])}

API       {url}/api/v1
API docs  {url}/docs
Data      {settings.data_dir}
Sandbox   tier {ground.tier}, {layers_on} layers on; details: python3 run.py doctor
User      {account.username}{origin}; password in {kept}

Try it from another terminal:
  export ANYMIND_API_URL={url}
  export ANYMIND_API_KEY={account.api_key}
  curl -s -X POST "$ANYMIND_API_URL/api/v1/runtime/{agent_id}/execute" \\
    -H "X-API-Key: $ANYMIND_API_KEY" -H "Content-Type: application/json" \\
    -d '{json.dumps({"payload": shown.payload})}'
Write your own agent: examples/README.md""".splitlines()


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_RESULT_CHARS else f"{text[:_SHOWN_RESULT_CHARS]} ..."


def _as_json(shown: Demonstration, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "docs_url": f"{url}/docs",
        "username": shown.account.username,
        "api_key": shown.account.api_key,
        "agent_id": shown.agent_id,
        "execution": shown.execution,
        "seconds": round(shown.seconds, 4),
    }
