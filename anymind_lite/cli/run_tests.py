"""`test`: the tests of Anymind Lite itself."""

import gc
import os
import sys

import click

from anymind_lite.cli import _settings


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.option("--all", "run_all", is_flag=True, help="Also the slow, hostile and fault tests.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def command(run_all: bool, pytest_args: tuple[str, ...]) -> None:
    """Run the tests of Anymind Lite; further arguments go to pytest."""
    import pytest

    gc.enable()
    selection = [] if run_all else ["-m", "not slow and not hostile and not faults"]
    # From wherever it was typed: pytest would collect the tests of the folder that it stands in.
    os.chdir(_settings.PROJECT_DIR)
    sys.exit(pytest.main([*selection, *pytest_args]))
