"""run.py, stage 1: real starts of a copy of it, with real installers and a tiny lock.

The lock names one package of one module, which lies in a folder beside it, so nothing is
downloaded. Where the installer is not the point, uv is taken if there is one: it is ten times as
fast.
"""

import base64
import contextlib
import glob
import hashlib
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import run

SOURCE = Path(__file__).resolve().parents[2]
PYTHON = str(getattr(sys, "_base_executable", "") or sys.executable)
UV = shutil.which("uv")
QUICKEST = "uv" if UV else "pip"
DEADLINE_SECONDS = 120
NOBODY = 65534

COMMAND_LINE = """
import json, sys
def main():
    import anymind_probe
    print(json.dumps({"prefix": sys.prefix, "arguments": sys.argv[1:]}))
"""

# Builds the wheel that lies beside it. If there is a gate, it says so and waits for it to open.
BUILD_BACKEND = """
import os, shutil
def build_wheel(folder, config_settings=None, metadata_directory=None):
    gate = os.environ.get("GATE", "")
    if os.path.exists(gate):
        open(gate + ".reached", "w").close()
        open(gate).read()
    name = "anymind_probe-1.0-py3-none-any.whl"
    shutil.copy(name, folder)
    return name
"""


def hear_interrupts() -> None:
    """Undo what a shell does to its background jobs: they and all they start ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Checkout:
    """A folder with run.py, a lock and a command line that tells where it runs."""

    root: Path
    wheels: Path
    installer: str = QUICKEST
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def environment(self, **more: str | None) -> dict[str, str]:
        """Variables that reach no network and no settings of this machine; None leaves one out."""
        tools = self.wheels.parent / "tools"
        tools.mkdir(exist_ok=True)
        if self.installer == "uv" and UV and not (tools / "uv").exists():
            (tools / "uv").symlink_to(UV)
        offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1"}
        links = {"PIP_FIND_LINKS": str(self.wheels), "UV_FIND_LINKS": str(self.wheels)}
        home = {"HOME": str(self.wheels.parent), "PATH": str(tools), "UV_NO_CONFIG": "1"}
        every = {**home, **offline, **links, **self.variables, **more}
        return {name: value for name, value in every.items() if value is not None}

    def start(self, *arguments: str, **more: str | None) -> subprocess.CompletedProcess[str]:
        """Run run.py to its end."""
        return self.run([PYTHON, str(self.root / "run.py"), *arguments], **more)

    def run(self, command: list[str], **more: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd="/",
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    @contextlib.contextmanager
    def begin(self) -> Iterator[subprocess.Popen[str]]:
        """Run run.py in a process group of its own, which is gone after the block."""
        with subprocess.Popen(
            [PYTHON, str(self.root / "run.py")],
            cwd="/",
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        ) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Gate:
    """Holds the installer inside a build: two FIFOs, one to be told by, one to let it go."""

    path: Path

    def wait_until_reached(self) -> None:
        with open(os.open(f"{self.path}.reached", os.O_RDONLY | os.O_NONBLOCK), "rb") as reached:
            poll = select.poll()
            poll.register(reached, select.POLLIN | select.POLLHUP)
            assert poll.poll(DEADLINE_SECONDS * 1000), "the installer never began to build"

    def open(self) -> None:
        """Let the build that waits go on, and later ones pass."""
        writer = os.open(self.path, os.O_WRONLY)
        self.path.unlink()
        os.close(writer)


def wheel_bytes(note: str = "") -> bytes:
    """A wheel of the package anymind-probe 1.0, whose module holds `note`."""
    files = {
        "anymind_probe.py": f"NOTE = {note!r}\n",
        "anymind_probe-1.0.dist-info/METADATA": (
            "Metadata-Version: 2.1\nName: anymind-probe\nVersion: 1.0\n"
        ),
        "anymind_probe-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "anymind_probe-1.0.dist-info/RECORD"
    rows = [f"{name},sha256={record_hash(text)},{len(text)}" for name, text in files.items()]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, text in {**files, record: "\n".join([*rows, f"{record},,", ""])}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return memory.getvalue()


def record_hash(text: str) -> str:
    """The hash of a file as a wheel's RECORD writes it: URL-safe base64 without padding."""
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def sdist_bytes() -> bytes:
    """The same package as a source archive that is built by BUILD_BACKEND."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: anymind-probe\nVersion: 1.0\n",
        "pyproject.toml": project.encode(),
        "backend.py": BUILD_BACKEND.encode(),
        "anymind_probe-1.0-py3-none-any.whl": wheel_bytes(),
    }
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"anymind_probe-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return memory.getvalue()


def lock_text(content: bytes) -> str:
    return f"anymind-probe==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


def make_checkout(folder: Path, *, installer: str = QUICKEST) -> Checkout:
    checkout = Checkout(folder / "any mind-ñ", folder / "wheels", installer)
    (checkout.root / "anymind_lite" / "cli").mkdir(parents=True)
    (checkout.root / "anymind_lite" / "__init__.py").touch()
    (checkout.root / "anymind_lite" / "cli" / "__init__.py").write_text(COMMAND_LINE)
    shutil.copy(SOURCE / "run.py", checkout.root)
    checkout.wheels.mkdir()
    (checkout.wheels / "anymind_probe-1.0-py3-none-any.whl").write_bytes(wheel_bytes())
    (checkout.root / "requirements.lock").write_text(lock_text(wheel_bytes()))
    return checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


@pytest.fixture(params=["pip", "uv"])
def checkout_of_each_installer(request: pytest.FixtureRequest, tmp_path: Path) -> Checkout:
    if request.param == "uv" and not UV:
        pytest.skip("there is no uv here")
    return make_checkout(tmp_path, installer=request.param)


@pytest.fixture
def gate(checkout: Checkout) -> Gate:
    """A gate in the checkout's package, which is built from source."""
    (checkout.wheels / "anymind_probe-1.0-py3-none-any.whl").unlink()
    (checkout.wheels / "anymind_probe-1.0.tar.gz").write_bytes(sdist_bytes())
    (checkout.root / "requirements.lock").write_text(lock_text(sdist_bytes()))
    path = checkout.wheels.parent / "gate"
    os.mkfifo(path)
    os.mkfifo(f"{path}.reached")
    checkout.variables["GATE"] = str(path)
    return Gate(path)


def patch_interpreter(folder: Path, code: str) -> str:
    """Write a sitecustomize module; return the PYTHONPATH that makes every start run it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of stderr, by the deadline."""
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], DEADLINE_SECONDS)[0], "nothing was printed"
    return process.stderr.readline()


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=DEADLINE_SECONDS)


def assert_refused(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """A named failure: exit code 3, nothing on stdout, a few lines with the cause and the fix."""
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "Anymind Lite cannot start: " in done.stderr
    assert "\nFix: " in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    for text in expected:
        assert text in done.stderr


def assert_refused_after_beginning(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """As `assert_refused`, after the line that says that the set-up begins."""
    first, _, rest = done.stderr.partition("\n")
    assert first.startswith("Setting up Anymind Lite")
    assert_refused(subprocess.CompletedProcess([], done.returncode, done.stdout, rest), *expected)


def assert_runs_in_venv(stdout: str, checkout: Checkout) -> None:
    assert json.loads(stdout) == {"prefix": str(checkout.venv), "arguments": []}


@pytest.mark.slow
def test_first_start_sets_up_and_the_second_only_uses_it(
    checkout_of_each_installer: Checkout,
) -> None:
    checkout = checkout_of_each_installer
    link = checkout.wheels.parent / "link.py"
    link.symlink_to(checkout.root / "run.py")

    first = checkout.run([PYTHON, str(link), "--json", "ñ x"])
    made_at = (checkout.venv / "anymind-ready").stat().st_mtime_ns
    second = checkout.start()

    assert first.returncode == 0, first.stderr
    expected = {"prefix": str(checkout.venv), "arguments": ["--json", "ñ x"]}
    assert json.loads(first.stdout) == expected
    begun, ended = first.stderr.splitlines()
    assert begun == "Setting up Anymind Lite (first start, about a minute) ..."
    assert ended.startswith("Set up in ")
    assert_runs_in_venv(second.stdout, checkout)
    assert second.stderr == ""
    assert (checkout.venv / "anymind-ready").stat().st_mtime_ns == made_at


@pytest.mark.slow
def test_stale_environment_is_made_again(checkout: Checkout) -> None:
    """One environment, spoilt in each way in turn: a first start costs seconds."""
    assert checkout.start().returncode == 0

    def change_lock() -> None:
        with open(checkout.root / "requirements.lock", "a") as lock:
            lock.write("# Changed.\n")

    def remove_python() -> None:
        python = checkout.venv / "bin" / "python"
        python.unlink()
        python.symlink_to("/nowhere/python3")

    def change_python() -> None:
        marker = checkout.venv / "anymind-ready"
        marker.write_bytes(marker.read_bytes().replace(b"cpython-3", b"cpython-2"))

    def cut_marker() -> None:
        os.truncate(checkout.venv / "anymind-ready", 10)

    for spoil in (change_lock, remove_python, change_python, cut_marker):
        (checkout.venv / "left-over").touch()
        spoil()
        done = checkout.start()
        assert "Set up in" in done.stderr, spoil
        assert_runs_in_venv(done.stdout, checkout)
        assert not (checkout.venv / "left-over").exists()


@pytest.mark.slow
def test_moved_folder_is_set_up_again(checkout: Checkout) -> None:
    assert checkout.start().returncode == 0
    moved = Checkout(checkout.root.with_name("moved"), checkout.wheels)
    checkout.root.rename(moved.root)

    done = moved.start()

    assert "Set up in" in done.stderr
    assert_runs_in_venv(done.stdout, moved)


@pytest.mark.slow
def test_stale_environment_is_replaced_from_inside(checkout: Checkout) -> None:
    """As a person does who has activated .venv and pulled a new lock."""
    assert checkout.start().returncode == 0
    with open(checkout.root / "requirements.lock", "a") as lock:
        lock.write("# Changed.\n")

    done = checkout.run([str(checkout.venv / "bin" / "python"), str(checkout.root / "run.py")])

    assert "Set up in" in done.stderr
    assert_runs_in_venv(done.stdout, checkout)


@pytest.mark.slow
def test_environment_for_another_processor_is_named(checkout: Checkout) -> None:
    """As in a container that mounts a folder of its host, where the marker cannot tell."""
    assert checkout.start().returncode == 0
    python = checkout.venv / "bin" / "python"
    python.unlink()
    python.write_bytes(b"\x7fELF")
    python.chmod(0o755)

    assert_refused(checkout.start(), "Exec format error", "delete .venv")


@pytest.mark.slow
def test_two_first_starts_at_once_both_succeed(checkout: Checkout, gate: Gate) -> None:
    with checkout.begin() as builder:
        gate.wait_until_reached()
        with checkout.begin() as waiter:
            assert "waiting for it" in read_line(waiter)
            gate.open()
            built, waited = finish(builder), finish(waiter)

    assert_runs_in_venv(built[0], checkout)
    assert_runs_in_venv(waited[0], checkout)
    assert "Set up in" in built[1]
    assert waited[1] == ""


@pytest.mark.slow
def test_next_start_waits_for_an_orphaned_installer(checkout: Checkout, gate: Gate) -> None:
    """kill -9 of run.py leaves the installer at work; nothing is built under its hands."""
    with checkout.begin() as killed:
        gate.wait_until_reached()
        killed.kill()
        killed.wait(DEADLINE_SECONDS)
        with checkout.begin() as second:
            assert "waiting for it" in read_line(second)
            gate.open()
            stdout, stderr = finish(second)

    assert "Set up in" in stderr
    assert_runs_in_venv(stdout, checkout)


@pytest.mark.slow
def test_set_up_that_was_killed_is_repaired(checkout: Checkout, gate: Gate) -> None:
    with checkout.begin() as killed:
        gate.wait_until_reached()
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(DEADLINE_SECONDS)
    gate.path.unlink()

    done = checkout.start()

    assert "Set up in" in done.stderr
    assert_runs_in_venv(done.stdout, checkout)


@pytest.mark.slow
def test_interrupted_set_up_ends_in_one_line_and_is_repaired(
    checkout: Checkout, gate: Gate
) -> None:
    with checkout.begin() as interrupted:
        gate.wait_until_reached()
        os.killpg(interrupted.pid, signal.SIGINT)
        stdout, stderr = finish(interrupted)
    gate.path.unlink()
    done = checkout.start()

    assert interrupted.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[1:] == ["Interrupted; the next start begins the set-up again."]
    assert_runs_in_venv(done.stdout, checkout)


@pytest.mark.slow
def test_package_with_another_hash_is_refused(checkout_of_each_installer: Checkout) -> None:
    checkout = checkout_of_each_installer
    (checkout.root / "requirements.lock").write_text(lock_text(b"something else"))

    done = checkout.start()

    assert_refused_after_beginning(done, "its hash differs", "mirror")
    assert not (checkout.venv / "anymind-ready").exists()
    assert "anymind" in (checkout.venv / "anymind-setup.log").read_text()


@pytest.mark.slow
def test_mirror_that_rebuilds_packages_is_left_out(tmp_path: Path) -> None:
    """As with piwheels: pip's configuration names a place whose wheels have other hashes."""
    checkout = make_checkout(tmp_path, installer="pip")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "anymind_probe-1.0-1-py3-none-any.whl").write_bytes(wheel_bytes("rebuilt"))
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nfind-links = {mirror}\n")
    lock = f"--find-links {checkout.wheels.as_uri()}\n{lock_text(wheel_bytes())}"
    (checkout.root / "requirements.lock").write_text(lock)

    # A variable would win over the configuration, and an empty one still counts as set.
    done = checkout.start(PIP_CONFIG_FILE=str(configuration), PIP_FIND_LINKS=None)

    assert_runs_in_venv(done.stdout, checkout)
    log = (checkout.venv / "anymind-setup.log").read_text()
    assert "DO NOT MATCH THE HASHES" in log


@pytest.mark.slow
def test_missing_network_is_named(checkout_of_each_installer: Checkout) -> None:
    checkout = checkout_of_each_installer
    with socket.socket() as closed:  # Bound but not listening: a connection is refused.
        closed.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        online = {"PIP_NO_INDEX": None, "PIP_FIND_LINKS": None, "PIP_INDEX_URL": index}
        online_uv = {"UV_OFFLINE": None, "UV_FIND_LINKS": None, "UV_INDEX_URL": index}
        impatient = {"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
        done = checkout.start(**online, **online_uv, **impatient)

    assert_refused_after_beginning(done, "no connection to the package index", "offline")


@pytest.mark.slow
def test_unknown_failure_shows_the_last_lines_and_the_log(checkout: Checkout) -> None:
    (checkout.root / "requirements.lock").write_text("anymind-probe==\n")

    done = checkout.start()

    assert done.returncode == 3
    assert "making .venv failed:" in done.stderr
    assert "anymind-probe" in done.stderr
    log = checkout.venv / "anymind-setup.log"
    assert f"Fix: see all of it in {log}" in done.stderr
    assert log.read_text()


def in_small_file_system(folder: Path, size: str, script: str, *arguments: str) -> list[str]:
    """A command that mounts a file system of `size` at `folder`, unseen by others, and runs."""
    mount = f'mount -t tmpfs -o size={size} none "$0" && {script}'
    unshare = ["unshare", "--mount", "--map-root-user"]
    return [*unshare, "/bin/sh", "-c", mount, str(folder), *arguments]


@pytest.mark.slow
def test_full_disk_is_named(checkout_of_each_installer: Checkout, tmp_path: Path) -> None:
    checkout = checkout_of_each_installer
    path = f"{tmp_path / 'tools'}:{os.defpath}"
    folder = tmp_path / "small"
    folder.mkdir()
    if checkout.run(in_small_file_system(folder, "4k", "true"), PATH=path).returncode != 0:
        pytest.skip("a file system of our own cannot be mounted here")
    script = 'cp -r "$1/." "$0" && exec "$2" "$0/run.py"'
    arguments = (str(checkout.root), PYTHON)

    done = checkout.run(in_small_file_system(folder, "64k", script, *arguments), PATH=path)

    assert_refused_after_beginning(done, "the disk is full", "free 200 MB")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_unwritable_folder_is_named(public_folder: Path) -> None:
    checkout = make_checkout(public_folder)
    checkout.root.chmod(0o555)
    if os.geteuid() != 0:
        done = checkout.start()
    else:  # Root may write anywhere.
        python = next((path for path in (PYTHON, "/usr/bin/python3") if serves_nobody(path)), None)
        if not python:
            pytest.skip("no Python 3.11 that another user may run")
        done = run_as_nobody([python, str(checkout.root / "run.py")], checkout.environment())

    assert_refused(done, "no permission for", "chown")


def run_as_nobody(
    command: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd="/",
        env=environment,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def serves_nobody(python: str) -> bool:
    """Whether an unprivileged user can run this Python and it is new enough."""
    try:
        probe = "import sys; sys.exit(sys.version_info < (3, 11))"
        return run_as_nobody([python, "-c", probe], {}).returncode == 0
    except OSError:
        return False


def list_old_pythons() -> list[str]:
    """Interpreters older than 3.11 by their usual names, on the PATH and in pyenv's folder."""
    names = ["python2.7", *(f"python3.{minor}" for minor in range(11))]
    pyenv = os.path.expanduser(os.environ.get("PYENV_ROOT", "~/.pyenv"))
    found = [path for name in names if (path := shutil.which(name))]
    for name in names:
        found += glob.glob(f"{pyenv}/versions/*/bin/{name}")
    return [path for path in found if is_old(path)]


def is_old(python: str) -> bool:
    """Whether it starts at all: pyenv puts a stand-in on the PATH for every version."""
    probe = "import sys; sys.exit(sys.version_info >= (3, 11))"
    return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0


def test_old_python_is_told_what_it_needs(checkout: Checkout) -> None:
    pythons = list_old_pythons()
    if not pythons:
        pytest.skip("there is no Python older than 3.11 here")
    for python in pythons:
        done = checkout.run([python, str(checkout.root / "run.py")])
        assert_refused(done, "it needs 3.11 or newer", "install one")


@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_windows_is_pointed_to_wsl(checkout: Checkout, tmp_path: Path, platform: str) -> None:
    patch = patch_interpreter(tmp_path / "patch", f"import sys; sys.platform = {platform!r}")

    assert_refused(checkout.start(PYTHONPATH=patch), "Windows", "WSL")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_python_without_venv_is_told_the_package(tmp_path: Path, module: str) -> None:
    """As Debian's is without python3-venv, which holds ensurepip."""
    checkout = make_checkout(tmp_path, installer="pip")
    patch = patch_interpreter(tmp_path / "patch", f"import sys; sys.modules[{module!r}] = None")

    done = checkout.start(PYTHONPATH=patch)

    assert_refused_after_beginning(done, "no venv or no ensurepip", "apt install python3-venv")


def test_environment_made_by_hand_is_left_alone(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)

    assert_refused(checkout.start(), "was not made by run.py", "activate it")
    assert [path.name for path in checkout.venv.iterdir()] == ["bin"]


def test_missing_lock_is_named(checkout: Checkout) -> None:
    (checkout.root / "requirements.lock").unlink()

    assert_refused(checkout.start(), "requirements.lock")


def test_no_bootstrap_runs_under_the_python_it_was_given(
    checkout: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "anymind_probe.py").touch()

    done = checkout.start("x", ANYMIND_NO_BOOTSTRAP="1", PYTHONPATH=str(tmp_path / "extra"))

    assert json.loads(done.stdout)["arguments"] == ["x"]
    assert json.loads(done.stdout)["prefix"] != str(checkout.venv)
    assert not checkout.venv.exists()


def test_no_bootstrap_without_the_packages_names_the_missing_one(
    checkout: Checkout, tmp_path: Path
) -> None:
    patch = patch_interpreter(tmp_path / "patch", "import sys; sys.modules['click'] = None")
    (checkout.root / "anymind_lite" / "cli" / "__init__.py").write_text("import click\n")

    done = checkout.start(ANYMIND_NO_BOOTSTRAP="1", PYTHONPATH=patch)

    assert_refused(done, "the package `click` is missing")


def make_active_environment(folder: Path, names: tuple[str, ...]) -> str:
    """A virtual environment that holds an empty module of each name; returns its Python."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in names:
        (packages / f"{name}.py").touch()
    return str(folder / "bin" / "python")


def test_active_environment_with_all_packages_is_used(checkout: Checkout, tmp_path: Path) -> None:
    python = make_active_environment(tmp_path / "mine", (*run.IMPORT_NAMES, "anymind_probe"))

    done = checkout.run([python, str(checkout.root / "run.py")])

    assert json.loads(done.stdout)["prefix"] == str(tmp_path / "mine")
    assert done.stderr == ""
    assert not checkout.venv.exists()


@pytest.mark.slow
def test_active_environment_without_a_package_is_not_used(
    checkout: Checkout, tmp_path: Path
) -> None:
    python = make_active_environment(tmp_path / "mine", run.IMPORT_NAMES[1:])

    done = checkout.run([python, str(checkout.root / "run.py")])

    assert_runs_in_venv(done.stdout, checkout)


@pytest.mark.slow
@pytest.mark.network
def test_real_lock_installs_and_imports(checkout_of_each_installer: Checkout) -> None:
    checkout = checkout_of_each_installer
    shutil.copy(SOURCE / "requirements.lock", checkout.root)
    imports = f"import {', '.join(run.IMPORT_NAMES)}\ndef main(): print('imported')\n"
    (checkout.root / "anymind_lite" / "cli" / "__init__.py").write_text(imports)
    offline = dict.fromkeys(("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "UV_OFFLINE"))
    certificates = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT")
    ours = {name: os.environ[name] for name in certificates if name in os.environ}

    done = checkout.start(**offline, **ours)

    assert done.stdout == "imported\n", done.stderr
