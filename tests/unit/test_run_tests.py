"""`run.py test` shares the tests of every day between two processes, and nothing else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from anymind_lite.cli import run_tests

EVERY_DAY = ["-m", "not slow and not hostile and not faults"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pytest is called with, each time."""
    calls: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        calls.append(arguments)
        return 0

    monkeypatch.chdir(Path.cwd())  # the command goes elsewhere; this leads back
    monkeypatch.setattr(pytest, "main", main)
    return calls


def test_the_plain_run_is_two_processes_that_share_whole_files(told: list[list[str]]) -> None:
    assert CliRunner().invoke(run_tests.command, []).exit_code == 0
    assert told == [[*EVERY_DAY, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]]


@pytest.mark.parametrize(
    "typed", [["-s"], ["--pdb"], ["-m", "faults"], ["tests/unit", "-k", "archive"], ["-n", "4"]]
)
def test_arguments_go_to_one_process_as_they_are(told: list[list[str]], typed: list[str]) -> None:
    assert CliRunner().invoke(run_tests.command, typed).exit_code == 0
    assert told == [[*EVERY_DAY, *typed]]


@pytest.mark.parametrize("typed", [[], ["-x"]])
def test_all_tests_run_in_one_process(told: list[list[str]], typed: list[str]) -> None:
    assert CliRunner().invoke(run_tests.command, ["--all", *typed]).exit_code == 0
    assert told == [typed]


def test_the_outcome_of_the_tests_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setattr(pytest, "main", lambda _: pytest.ExitCode.TESTS_FAILED)
    assert CliRunner().invoke(run_tests.command, []).exit_code == 1
