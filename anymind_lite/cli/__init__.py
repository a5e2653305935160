"""The command line: `main` is a click group that imports a command's module when it is used.

Exit codes: 0 done, 1 failed with a message that names the cause, 2 wrong usage, 3 the environment
could not be set up (run.py).
"""

import gc
import importlib
import sys

import click

from anymind_lite import __version__
from anymind_lite.errors import AnymindError

# name -> (module below anymind_lite.cli, one line for the overview)
_COMMANDS = {
    "quickstart": ("quickstart", "Start a server and run an example agent on it."),
    "serve": ("serve", "Start the server."),
    "backup": ("backup", "Save all data to one file, also while a server runs."),
    "restore": ("restore", "Put a backup into an empty data folder."),
    "config": ("show_config", "Show every setting, its value and where it came from."),
    "doctor": ("doctor", "Show what this machine's sandbox can do."),
    "test": ("run_tests", "Run the tests of Anymind Lite itself."),
    "bench": ("run_bench", "Measure it beside what it is compared with."),
}


class _LazyGroup(click.Group):
    """Knows its commands by name and one line; help for all of them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a newcomer needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"anymind_lite.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="Anymind Lite")
def _group() -> None:
    """Deploy Python agents and run each call in a process of its own.

    New here? Try: python3 run.py quickstart
    """


def main() -> None:
    """Run the command line; errors with a known cause are one message and exit code 1."""
    # What is imported stays: looking for garbage in it is a tenth of a start. Commands that go on
    # for long enable it when they have begun.
    gc.disable()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        _group(prog_name="run.py")
    except AnymindError as exc:
        click.echo(f"Error: {exc}", err=True)
        sys.exit(1)
