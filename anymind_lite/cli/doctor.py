"""`doctor`: what this machine's sandbox can do, tried in a real child."""

import json
import platform
import sqlite3
import sys
import tempfile
from pathlib import Path

import click

from anymind_lite.sandbox.in_server.probe import LayerState, probe_machine
from anymind_lite.sandbox.in_server.supervisor import Supervisor


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what this machine's sandbox can do; exit code 1 if agents cannot run."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Supervisor(Path(folder) / "scratch", Path(folder) / "code")
        sandbox.start()
        try:
            states = probe_machine(sandbox)
        finally:
            sandbox.stop()
    if as_json:
        click.echo(json.dumps([state.to_json() for state in states], indent=2))
    else:
        _print(states)
    if any(state.is_required and not state.is_on for state in states):
        sys.exit(1)


def _print(states: list[LayerState]) -> None:
    click.echo(f"Machine   {platform.platform()} {platform.machine()}")
    click.echo(f"Python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    click.echo("Sandbox")
    for state in states:
        word = "on" if state.is_on else ("OFF" if state.is_required else "not used")
        click.echo(f"  {state.name:18} {word:9} {state.note}")
