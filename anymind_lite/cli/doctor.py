"""`doctor`: what this machine's sandbox can do, tried in a real child."""

import json
import platform
import sqlite3
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from anymind_lite.cli import _settings
from anymind_lite.errors import StartupError
from anymind_lite.sandbox.in_server.probe import (
    LayerState,
    SandboxState,
    sandbox_state,
    try_sandbox,
)
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import let_agents_pass

_MEANINGS = {
    Tier.A: "namespaces and filtered system calls",
    Tier.B: "filtered system calls and Landlock, no namespaces",
    Tier.C: "no wall against an agent that means harm",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what this machine's sandbox can do; exit code 1 if agents cannot run."""
    state = _examine(Tier(_settings.load({}).settings.min_tier))
    if as_json:
        click.echo(json.dumps(state.to_json()))
    else:
        _print(state)
    if not state.can_run:
        sys.exit(1)


def _examine(min_tier: Tier) -> SandboxState:
    """Start a sandbox of its own, run a job in it, and return what was found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        let_agents_pass(path)
        sandbox = Supervisor(path / "scratch", path / "code", min_tier=min_tier)
        sandbox.start()
        try:
            state = sandbox_state(sandbox)
            if state.can_run:
                try_sandbox(sandbox)
        except StartupError as exc:
            state = replace(state, can_run=False, message=str(exc))
        finally:
            sandbox.stop()
    return state


def _print(state: SandboxState) -> None:
    click.echo(f"Machine   {platform.platform()} {platform.machine()}")
    click.echo(f"Python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    click.echo(
        f"Sandbox   tier {state.tier}: {_MEANINGS[state.tier]}; MIN_TIER is {state.min_tier}"
    )
    for layer in state.layers:
        _print_layer(layer)
    click.echo(state.message or "Agents can run.")


def _print_layer(layer: LayerState) -> None:
    note = "; of runs with subprocess: true" if layer.is_for_processes else ""
    click.echo(f"  {layer.name:15} {'on' if layer.is_on else 'OFF':4} {layer.promise}{note}")
    if layer.why_off:
        click.echo(f"  {'':15} {'':4} why: {layer.why_off}")
    if layer.fix:
        click.echo(f"  {'':15} {'':4} fix: {layer.fix}")
