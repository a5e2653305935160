"""The agents that are executed: the same folder for everybody, its packages inside."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What each imports, by its name in the tables. Packages come along in the folder, pinned.
PACKAGES = {
    "hello": (),
    "pydantic": ("pydantic==2.14.3",),
    "numpy": ("numpy==2.4.6",),
    "openai": ("openai==3.54.0",),
    "pandas": ("pandas==3.1.1", "numpy==2.4.6"),
}
_MANIFEST = "name: {name}\nentrypoint: main:handle\n"
_MAIN = """{imports}

def handle(payload):
    return {{"hello": payload["name"]}}
"""
_IMPORTS = """import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "vendor"))

import {name}
"""


@dataclass(frozen=True)
class Agent:
    """One agent in a folder of its own."""

    name: str
    folder: Path


def make_agent(name: str, cache: Path) -> Agent:
    """Return an agent, made anew but for its packages, which stay in the cache."""
    folder = cache / "agents" / name
    if not _is_made(folder, PACKAGES[name]):
        _install(folder, PACKAGES[name])
    imports = _IMPORTS.format(name=name) if PACKAGES[name] else ""
    (folder / "main.py").write_text(_MAIN.format(imports=imports), encoding="utf-8")
    (folder / "anymind.yaml").write_text(_MANIFEST.format(name=name), encoding="utf-8")
    return Agent(name, folder)


def _marker(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.made-of"


def _is_made(folder: Path, packages: tuple[str, ...]) -> bool:
    marker = _marker(folder)
    return marker.exists() and marker.read_text(encoding="utf-8") == "\n".join(packages)


def _install(folder: Path, packages: tuple[str, ...]) -> None:
    _marker(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if packages:
        vendor = str(folder / "vendor")
        pip(sys.executable, "--only-binary", ":all:", "--no-compile", "--target", vendor, *packages)
    _marker(folder).write_text("\n".join(packages), encoding="utf-8")


def pip(python: str, *arguments: str) -> None:
    """Run `pip install` of a Python. Raises RuntimeError with its last words."""
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip failed: {done.stderr.strip()[-500:]}")
