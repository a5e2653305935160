"""What a start loads: each command what it needs, the server nothing that can wait."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import PROGRAM, SUITE_SETTINGS, LiveServer
from tests.waiting import DEADLINE_SECONDS

# Python writes a line to stderr for each module that it loads, or looks for (python(1)).
LISTING = {"PYTHONPROFILEIMPORTTIME": "1"}

HTTP = {"flask", "werkzeug", "jinja2", "marshmallow", "flask_smorest", "flask_cors", "waitress"}
DATABASE = {"peewee", "playhouse", "sqlite3", "huey"}
NETWORK = {"http", "ssl", "socketserver", "email"}
LATER = {"jwt", "bcrypt", "yaml", "tarfile", "pytest", "asyncio"}
SANDBOX = {"subprocess", "ctypes", "anymind_lite.sandbox"}
HEAVY = HTTP | DATABASE | NETWORK | LATER | SANDBOX

# What a command may load of all that, and how many modules that are not Python's own.
COMMANDS: dict[tuple[str, ...], tuple[set[str], int]] = {
    ("--help",): (set(), 25),
    ("serve", "--help"): (set(), 25),
    ("quickstart", "--help"): (NETWORK | {"tarfile"}, 30),
    ("backup", "--help"): (set(), 25),
    ("restore", "--help"): (set(), 25),
    ("test", "--help"): (set(), 25),
    ("config",): (set(), 25),
    ("doctor",): (SANDBOX | {"sqlite3"}, 40),
}
# Of the server: what is for the first log-in, the first upload, the document, a new database.
FOR_LATER = (LATER - {"bcrypt", "yaml"}) | {
    "anymind_lite.cli.quickstart",
    "anymind_lite.services.backups",
    "anymind_lite.services.restores",
    "anymind_lite.reader.in_reader",
    "playhouse",
}
MOST_OF_SERVER = 310


def listed(text: str) -> set[str]:
    """Return the modules of a listing."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", text, re.MULTILINE))


def loaded_by(*words: str) -> set[str]:
    """Run a command to its end; return the modules that it loaded."""
    environment = {**os.environ, **SUITE_SETTINGS, **LISTING}
    done = subprocess.run(
        [*PROGRAM, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return listed(done.stderr)


def foreign(names: set[str]) -> set[str]:
    """Return those that are not Python's own, the few that a library looks for in vain included."""
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


def within(names: set[str], packages: set[str]) -> set[str]:
    """Return the modules that are, or are in, one of some packages."""
    return {name for name in names if any(f"{name}.".startswith(f"{one}.") for one in packages)}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_loads_what_it_needs(words: tuple[str, ...]) -> None:
    names = loaded_by(*words)
    needed, most = COMMANDS[words]
    assert "anymind_lite.cli" in names
    assert within(names, HEAVY - needed) == set()
    assert len(foreign(names)) <= most


def test_a_backup_loads_no_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data"):
        pass
    names = loaded_by("backup", str(tmp_path / "file"), "--data", str(tmp_path / "data"))
    assert "peewee" in names
    assert within(names, HEAVY - DATABASE | {"huey", "playhouse"}) == set()


def test_the_server_starts_without_what_can_wait(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data"):
        pass  # makes the database
    with LiveServer(tmp_path / "data", settings=LISTING) as live:
        assert live.api.call("GET", "/health").status == 200
    names = listed(live.output)
    assert "flask" in names
    assert within(names, FOR_LATER) == set()
    assert len(foreign(names)) <= MOST_OF_SERVER
