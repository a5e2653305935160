"""The requirement files, pyproject.toml, run.py and its documentation agree with each other."""

import importlib.util
import os
import re
import tomllib
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements.txt", "requirements-dev.txt", "requirements.lock")
IMPORTED_AS = {
    "pyjwt": "jwt",
    "pytest-xdist": "xdist",
    "python-dotenv": "dotenv",
    "pyyaml": "yaml",
}


def read_chosen() -> dict[str, str]:
    """The packages of requirements.txt and their versions."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    stripped = [line.split("#")[0].strip() for line in lines]
    return dict(line.split("==") for line in stripped if line)


def read_locked() -> list[tuple[str, str, str]]:
    """Name, version and the rest of every entry of the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return re.findall(r"^([a-z0-9-]+)==([^ \n]+)(.*\n(?: .*\n)*)", text, re.MULTILINE)


def test_every_chosen_package_is_locked_at_its_version() -> None:
    locked = {(name, version) for name, version, _ in read_locked()}
    assert read_chosen()
    assert set(read_chosen().items()) <= locked


def test_every_locked_package_has_hashes() -> None:
    for name, _, rest in read_locked():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), name


def test_lock_holds_nothing_but_hashed_entries() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and line[0] not in "# "]
    assert len(entries) == len(read_locked()) > len(read_chosen())


@pytest.mark.parametrize("name", FILES)
def test_no_requirement_file_names_a_host_or_a_local_path(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|^-|^[^#]* @ ", text, re.MULTILINE)


def test_lock_begins_at_the_oldest_python_that_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"--python-version {oldest} " in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"({oldest.replace('.', ', ')})" in (ROOT / "run.py").read_text(encoding="utf-8")


def test_run_py_knows_every_package() -> None:
    names = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in read_chosen()}
    assert set(run.IMPORT_NAMES) == names


@pytest.mark.parametrize("cause", [cause for _, (cause, _) in run.CAUSES])
def test_every_cause_of_a_failed_set_up_is_documented(cause: str) -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert f"| {cause.rstrip('.')} |" in page


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("CI") != "true", reason="contributors may do without")
@pytest.mark.parametrize("name", ["hypothesis", "schemathesis"])
def test_ci_has_what_the_slow_suites_need(name: str) -> None:
    assert importlib.util.find_spec(name) is not None
