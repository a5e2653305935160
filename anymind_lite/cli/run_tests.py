"""`test`: the tests of Anymind Lite itself."""

import gc
import os
import sys

import click

from anymind_lite.cli import _settings

# Two processes for the tests of every day: much of them is waiting, and computing has two cores.
# A file's tests stay together, for what they share; files in their order, for what a folder shares.
_IN_TWO = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
_EVERY_DAY = ("-m", "not slow and not hostile and not faults")


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.option("--all", "run_all", is_flag=True, help="Also the slow, hostile and fault tests.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def command(run_all: bool, pytest_args: tuple[str, ...]) -> None:
    """Run the tests of Anymind Lite; further arguments go to pytest."""
    import pytest

    gc.enable()
    # From wherever it was typed: pytest would collect the tests of the folder that it stands in.
    os.chdir(_settings.PROJECT_DIR)
    sys.exit(pytest.main([*_choices(run_all, pytest_args), *pytest_args]))


def _choices(run_all: bool, pytest_args: tuple[str, ...]) -> tuple[str, ...]:
    """Return what pytest is told before the arguments that somebody typed.

    Two processes are for the plain run alone. The heavy suites measure, mount and count what is on
    the machine; a few tests are done before a second process has begun; and -s and --pdb, which
    would do nothing there, want the one that a person watches. Whoever types -n has that many.
    """
    if run_all:
        return ()
    return _EVERY_DAY if pytest_args else (*_EVERY_DAY, *_IN_TWO)
