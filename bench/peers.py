"""What Anymind Lite is compared with: servers that anybody would write, and bare processes.

Each is installed into an environment of its own in the user's cache folder, with pinned versions.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from socket import create_server

from bench.agents import Agent, pip
from bench.clients import Request
from bench.figures import Turn
from bench.servers import VARIABLES

PROGRAMS = Path(__file__).resolve().parent / "programs"
FASTAPI = ("fastapi==0.165.0", "uvicorn==0.54.0")
FUNCTIONS_FRAMEWORK = ("functions-framework==3.10.2",)
_START_SECONDS = 60
_STOP_SECONDS = 20

PAYLOAD = b'{"payload": {"name": "Ada"}}'
EXPECTED = b'"hello":"Ada"'

# What bubblewrap lets the naive server's children have: the disk to read, nothing to write.
_BWRAP = (
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--"),
)


def cache_folder() -> Path:
    """Return the folder that keeps environments and packages; one for each Python."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "anymind-lite-bench" / f"{sysconfig.get_platform()}-{sys.version_info[1]}"


def environment(packages: Sequence[str], cache: Path) -> Path:
    """Return the Python of an environment with just these packages, made if it is not there."""
    text = "\n".join((sys.prefix, *packages))
    folder = cache / "peers" / hashlib.sha256(text.encode()).hexdigest()[:12]
    python, marker = folder / "bin" / "python", folder / "complete"
    if not marker.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip(str(python), *packages)
        marker.touch()
    return python


# Servers ------------------------------------------------------------------------------------------


class Naive:
    """FastAPI and `subprocess.run`: a fresh Python for each call that imports the agent."""

    def __init__(self, url: str) -> None:
        self._url = url

    def request_for(self, agent: Agent) -> Request:
        """Return what executes an agent once."""
        return Request.post(f"{self._url}/execute/{agent.name}", PAYLOAD, expected=EXPECTED)


@contextmanager
def naive(agents: Sequence[Agent], cache: Path, *, wrapper: Sequence[str] = ()) -> Iterator[Naive]:
    """Serve agents with FastAPI; `wrapper` is put before each child's command."""
    python = environment(FASTAPI, cache)
    folders = {agent.name: str(agent.folder) for agent in agents}
    variables = {"BENCH_AGENTS": json.dumps(folders), "BENCH_WRAPPER": json.dumps(list(wrapper))}
    port = free_port()
    command = [str(python), "-m", "uvicorn", "naive:app", "--app-dir", str(PROGRAMS)]
    options = ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    with _running([*command, *options], port, variables):
        yield Naive(f"http://127.0.0.1:{port}")


def bubblewrap() -> list[str]:
    """Return the command of bubblewrap. Raises RuntimeError where it is not or does not work."""
    found = shutil.which("bwrap")
    if found is None:
        raise RuntimeError("bwrap is not installed (Debian: apt-get install bubblewrap)")
    tried = subprocess.run([found, *_BWRAP, "/bin/true"], capture_output=True, check=False)
    if tried.returncode != 0:
        raise RuntimeError(f"bwrap does not work here: {tried.stderr.decode().strip()}")
    return [found, *_BWRAP]


class FunctionsFramework:
    """functions-framework: one process for each agent, which is imported once and kept alive."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports

    def request_for(self, agent: Agent) -> Request:
        """Return what executes an agent once."""
        url = f"http://127.0.0.1:{self._ports[agent.name]}/"
        return Request.post(url, PAYLOAD, expected=EXPECTED)


@contextmanager
def functions_framework(agents: Sequence[Agent], cache: Path) -> Iterator[FunctionsFramework]:
    """Serve each agent with a functions-framework of its own, as that is how it serves."""
    python = environment(FUNCTIONS_FRAMEWORK, cache)
    program = [str(python.with_name("functions-framework")), "--target", "call"]
    program += ["--source", str(PROGRAMS / "function.py"), "--host", "127.0.0.1"]
    ports: dict[str, int] = {}
    with ExitStack() as stack:
        for agent in agents:
            ports[agent.name] = port = free_port()
            variables = {"BENCH_AGENT": str(agent.folder)}
            stack.enter_context(_running([*program, "--port", str(port)], port, variables))
        yield FunctionsFramework(ports)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with closing(create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], port: int, variables: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, env={**os.environ, **VARIABLES, **variables}, stdout=subprocess.DEVNULL
    )
    try:
        _wait_until_it_answers(process, port)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing") as answer:
                answer.read()
            return
        except urllib.error.HTTPError:
            return  # Any answer will do.
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not start")


# Bare processes -----------------------------------------------------------------------------------


KINDS = {
    "fork": "fork of a small Python",
    "true": "fork and exec of /bin/true",
    "python": "`python -c pass`",
}


class Forks:
    """A small Python that forks, and times it: what a fresh process costs without any server."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def take_turn(self, kind: str, seconds: float) -> Turn:
        """Start processes of a kind for so long, one after another."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._process.stdin.write(f"{kind} {seconds}\n")
        self._process.stdin.flush()
        latencies = tuple(json.loads(self._process.stdout.readline()))
        return Turn(latencies, sum(latencies))


@contextmanager
def forks() -> Iterator[Forks]:
    """Run that small Python."""
    command = [sys.executable, "-I", "-S", str(PROGRAMS / "forks.py"), sys.executable]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Forks(process)
    finally:
        process.communicate("")  # It ends with its input.
