#!/usr/bin/env python3
"""Start Anymind Lite: `python3 run.py COMMAND`.

Owns stage 1: make `.venv` beside this file from requirements.lock where it is missing or stale,
run again under its Python, call `anymind_lite.cli.main`. Standard library only. Whatever this file
has to say goes to stderr; stdout is the command's. docs/installation.md lists every message.

The syntax is that of Python 2.7, with types in comments, so that an old Python gets as far as
naming the fix instead of a SyntaxError (test_old_python_is_told_what_it_needs). Modules that cost
milliseconds are imported by the functions that need them: most starts only compare a marker.
"""

import os
import sys

ROOT = os.path.dirname(os.path.realpath(__file__))
LOCK = os.path.join(ROOT, "requirements.lock")
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
GUARD = os.path.join(VENV, "anymind-setup.lock")  # Flocked while .venv is made; says it is ours.
MARKER = os.path.join(VENV, "anymind-ready")  # Written last: what .venv was made from.
LOG = os.path.join(VENV, "anymind-setup.log")  # What the tool that failed printed.

# How each package of requirements.txt is imported (test_run_py_knows_every_package).
IMPORT_NAMES = (
    "bcrypt",
    "click",
    "dotenv",
    "flask",
    "flask_cors",
    "flask_smorest",
    "huey",
    "jwt",
    "marshmallow",
    "peewee",
    "pytest",
    "waitress",
    "xdist",
    "yaml",
)

DISK_FULL = (
    "the disk is full.",
    "free 200 MB where this folder, the temporary folder (TMPDIR) and the download cache are.",
)
HASH_MISMATCH = (
    "a downloaded package is not the one that requirements.lock names (its hash differs).",
    "leave out a mirror that rebuilds them (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, UV_INDEX_URL).",
)
UNTRUSTED_CERTIFICATE = (
    "the package index shows a certificate that is not trusted here.",
    "name your network's own authority: SSL_CERT_FILE=/path/ca.pem PIP_CERT=/path/ca.pem.",
)
NO_NETWORK = (
    "the packages cannot be downloaded: no connection to the package index.",
    "connect, or set HTTPS_PROXY, or install offline as docs/installation.md says.",
)
# What pip, uv and ensurepip print, and what it means. The first that matches is it: a full disk
# also makes pip report missing packages.
CAUSES = (
    (("No space left on device", "Disk quota exceeded"), DISK_FULL),
    (("DO NOT MATCH THE HASHES", "Hash mismatch"), HASH_MISMATCH),
    (("CERTIFICATE_VERIFY_FAILED", "invalid peer certificate"), UNTRUSTED_CERTIFICATE),
    (
        ("NewConnectionError", "(from versions: none)", "error sending request", "network was dis"),
        NO_NETWORK,
    ),
)


class SetupError(Exception):
    """The environment cannot be made or used; holds what is wrong and what the person can do."""

    def __init__(self, cause, fix):
        # type: (str, str) -> None
        Exception.__init__(self, cause, fix)
        self.cause = cause
        self.fix = fix


def main():
    # type: () -> None
    """Reach a Python that can import the packages, then hand over to the command line.

    Exits with 3 when that cannot be done, with 130 when the set-up was interrupted.
    """
    try:
        check_platform()
        enter_environment()
        run_command()
    except SetupError as error:
        say("Anymind Lite cannot start: %s\nFix: %s" % (error.cause, error.fix))
        sys.exit(3)


def say(text):
    # type: (str) -> None
    """Print for the person who started this."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def check_platform():
    # type: () -> None
    """Raise SetupError where Anymind Lite cannot run."""
    if sys.platform in ("win32", "cygwin"):
        raise SetupError(
            "Windows has none of the system calls that hold agents back.",
            "run it inside WSL: `wsl --install`, then the same command in the Linux that it opens.",
        )
    if sys.version_info < (3, 11):
        raise SetupError(
            "this is Python %d.%d, and it needs 3.11 or newer." % sys.version_info[:2],
            "install one and start with it, for example `python3.12 run.py`.",
        )


def enter_environment():
    # type: () -> None
    """Return if this process can import the packages; else replace it by one that can."""
    if os.environ.get("ANYMIND_NO_BOOTSTRAP") == "1" or has_packages_of_its_own():
        return
    try:
        wanted = recipe()
        if not is_ready(wanted):
            make_environment(wanted)
        elif is_inside_ours():
            return
        os.execv(VENV_PYTHON, [VENV_PYTHON] + sys.orig_argv[1:])  # noqa: S606 - no shell is wanted.
    except OSError as error:
        raise explained(error)
    except KeyboardInterrupt:
        say("Interrupted; the next start begins the set-up again.")
        sys.exit(130)


def run_command():
    # type: () -> None
    """Import the command line and call it; a package that is missing raises SetupError."""
    if ROOT not in sys.path:  # Left out by -P, -I and PYTHONSAFEPATH.
        sys.path.insert(0, ROOT)
    try:
        from anymind_lite.cli import main as command
    except ModuleNotFoundError as error:
        if error.name not in IMPORT_NAMES:
            raise
        raise SetupError(
            "the package `%s` is missing from %s." % (error.name, sys.prefix),
            "delete .venv if it is that, else install requirements.lock there.",
        )
    command()


def has_packages_of_its_own():
    # type: () -> bool
    """Whether this is somebody's active environment that holds every package, in any version."""
    if is_inside_ours() or (sys.prefix == sys.base_prefix and "VIRTUAL_ENV" not in os.environ):
        return False
    from importlib.util import find_spec

    return all(find_spec(name) for name in IMPORT_NAMES)


def is_inside_ours():
    # type: () -> bool
    """Whether this process runs in a .venv that this file made, rather than one made by hand."""
    return os.path.realpath(sys.prefix) == os.path.realpath(VENV) and os.path.exists(GUARD)


def recipe():
    # type: () -> bytes
    """Everything that must be unchanged for .venv to be used again, the lock's whole text included.

    A virtual environment holds absolute paths, so its own is part of that; so is the machine, for
    a folder that several systems mount at the same place. Comparing 40 kB costs less than loading
    OpenSSL for a hash of them: 0.1 ms against 7 ms, in each of a start's two processes.
    """
    python = "%s%s" % (sys.implementation.cache_tag, sys.abiflags)
    machine = "%s-%s" % (sys.platform, os.uname().machine)
    with open(LOCK, "rb") as lock:
        return b"\n".join([python.encode(), machine.encode(), os.fsencode(VENV), lock.read()])


def is_ready(wanted):
    # type: (bytes) -> bool
    """Whether .venv was made from exactly this, to the end, and its Python is still there."""
    try:
        with open(MARKER, "rb") as marker:
            return marker.read() == wanted and os.access(VENV_PYTHON, os.X_OK)
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_environment(wanted):
    # type: (bytes) -> None
    """Build .venv in place, one process at a time, and write the marker last.

    In place, because a virtual environment cannot be renamed (the paths in its scripts would name
    another). So a half-made one can exist; without the marker it counts as none and is made again
    from nothing. Raises SetupError or OSError.
    """
    import time

    guard = take_guard()
    try:
        if is_ready(wanted):  # Another start made it while this one waited.
            return
        started = time.monotonic()
        say("Setting up Anymind Lite (first start, about a minute) ...")
        empty_environment()
        install(guard)
        os.sync()  # After a power cut the marker must not outlive the files it vouches for.
        with open(MARKER, "wb") as marker:
            marker.write(wanted)
        say("Set up in %.0f s." % (time.monotonic() - started))
    finally:
        os.close(guard)


def take_guard():
    # type: () -> int
    """Wait until no other start builds here; return the descriptor that keeps it so."""
    import fcntl

    if os.path.isdir(VENV) and os.listdir(VENV) and not os.path.exists(GUARD):
        raise SetupError(
            ".venv exists and was not made by run.py, which leaves it alone.",
            "activate it if it holds the packages, else move it away.",
        )
    os.makedirs(VENV, exist_ok=True)
    guard = os.open(GUARD, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another start is setting up Anymind Lite; waiting for it ...")
        fcntl.flock(guard, fcntl.LOCK_EX)
    return guard


def empty_environment():
    # type: () -> None
    """Remove all of .venv but the guard, the marker before anything that it vouches for."""
    import shutil

    if os.path.exists(MARKER):
        os.remove(MARKER)
    for entry in os.scandir(VENV):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != GUARD:
            os.remove(entry.path)


def install(guard):
    # type: (int) -> None
    """Make the virtual environment and install the lock into it, by uv if there is one."""
    import shutil

    uv = shutil.which("uv")
    if uv:
        install_with_uv(uv, guard)
    else:
        install_with_pip(guard)


def install_with_uv(uv, guard):
    # type: (str, int) -> None
    """Use uv; bytecode is compiled now because later starts may not be allowed to write."""
    create = ["venv", "--quiet", "--no-project", "--allow-existing", "--python", base_python()]
    run_tool([uv] + create + [VENV], guard)
    fill = ["pip", "install", "--quiet", "--compile-bytecode", "--require-hashes"]
    run_tool([uv] + fill + ["--python", VENV_PYTHON, "-r", LOCK], guard)


def install_with_pip(guard):
    # type: (int) -> None
    """Use venv, ensurepip and pip, each isolated (-I) from PYTHONPATH and the user's packages.

    ensurepip runs apart from venv, which would swallow what it prints.
    """
    from importlib.util import find_spec

    if not (find_spec("venv") and find_spec("ensurepip")):
        raise SetupError(
            "this Python has no venv or no ensurepip, so it cannot make an environment.",
            "`apt install python3-venv` (or python%d.%d-venv), or put uv on the PATH."
            % sys.version_info[:2],
        )
    run_tool([base_python(), "-I", "-m", "venv", "--without-pip", VENV], guard)
    run_tool([VENV_PYTHON, "-I", "-m", "ensurepip", "--default-pip"], guard)
    pip = [VENV_PYTHON, "-I", "-m", "pip", "install", "--quiet", "--no-input"]
    command = pip + ["--disable-pip-version-check", "--require-hashes", "-r", LOCK]
    try:
        run_tool(command, guard)
    except SetupError as error:
        if error.cause != HASH_MISMATCH[0]:
            raise
        # Raspberry Pi OS configures pip with piwheels, whose rebuilt wheels have other hashes.
        run_tool(command, guard, PIP_CONFIG_FILE=os.devnull)


def base_python():
    # type: () -> str
    """Return the Python that made the running environment: .venv may be the one being replaced."""
    return getattr(sys, "_base_executable", "") or sys.executable


def run_tool(command, guard, **variables):
    # type: (list[str], int, str) -> None
    """Run one step of the set-up, quietly; raise SetupError with the distilled cause if it fails.

    The child inherits the guard: after a kill -9 of this process the next start waits for the
    orphan instead of building under its hands (test_next_start_waits_for_an_orphaned_installer).
    """
    import subprocess

    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, **variables),
        pass_fds=(guard,),
        check=False,
    )
    if done.returncode != 0:
        keep_log(done.stdout)
        raise distilled(done.stdout.decode(errors="replace"))


def keep_log(output):
    # type: (bytes) -> None
    """Write all that a failed tool printed to LOG."""
    try:
        with open(LOG, "wb") as log:
            log.write(output)
    except OSError:
        pass  # The cause is told all the same; a full disk may be that cause.


def distilled(output):
    # type: (str) -> SetupError
    """Find the cause in what a tool printed; failing that, show its last lines."""
    for signs, (cause, fix) in CAUSES:
        if any(sign in output for sign in signs):
            return SetupError(cause, fix + "\nDetails: " + LOG)
    tail = "\n  ".join(output.strip().splitlines()[-15:])
    return SetupError("making .venv failed:\n  " + tail, "see all of it in " + LOG)


def explained(error):
    # type: (OSError) -> SetupError
    """Put an error of this file's own reading and writing into words."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(*DISK_FULL)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(
            "no permission for %s." % (error.filename or VENV),
            "start as the owner of %s, or `chown -R` that folder to yourself." % ROOT,
        )
    return SetupError("%s." % error, "put this right, or delete .venv, and start again.")


if __name__ == "__main__":
    main()
