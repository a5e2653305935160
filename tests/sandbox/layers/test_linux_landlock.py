"""Which files Landlock opens and closes, and that without it the same attempts go through."""

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_child.layers import linux_landlock, linux_seccomp
from tests.sandbox.layers.children import NOBODY, Identity, call, error_of, missing, nothing
from tests.sandbox.layers.ordinary_python import EVERYDAY

ABI = linux_landlock.supported_abi()
RUNTIME = linux_landlock.runtime_paths()
DEVICES = linux_landlock.device_paths()


@pytest.fixture(autouse=True)
def _needs_landlock() -> None:
    if ABI < 1:
        missing("Landlock")


class Places:
    """A code folder, a scratch folder, and what is a neighbour's."""

    def __init__(self, folder: Path, who: Identity) -> None:
        self.code, self.scratch, self.secrets = (
            folder / name for name in ("code", "scratch", "secrets")
        )
        for path in (self.code, self.scratch, self.secrets):
            path.mkdir()
        (self.code / "main.py").write_text("value = 1\n", encoding="utf-8")
        (self.secrets / "key").write_text("hush", encoding="utf-8")
        (self.secrets / "empty").mkdir()
        if who.uid is not None:
            for path in folder.rglob("*"):
                os.chown(path, who.uid, who.uid)

    def landlock(self, *, abi: int = ABI, **more: Any) -> Callable[[], None]:
        return partial(
            linux_landlock.restrict,
            readable=[*RUNTIME, str(self.code)],
            writable=[*DEVICES, str(self.scratch)],
            abi=min(abi, ABI),
            **more,
        )


@pytest.fixture
def places(folder: Path, who: Identity) -> Places:
    return Places(folder, who)


def closed_to(who: Identity) -> bool:
    """Tell whether this Python lies where that user cannot go (below root's home)."""
    path = Path(os.__file__).resolve()
    return who.uid is not None and not all(
        one.stat().st_mode & 0o005 for one in (path, *path.parents)
    )


@pytest.fixture(autouse=True)
def _needs_a_readable_python(who: Identity) -> None:
    if closed_to(who):
        pytest.skip("this Python's own files are closed to others")


def attempts_on(places: Places) -> dict[str, Callable[[], Any]]:
    """Return what is tried on files that are none of the agent's business."""
    key, main = places.secrets / "key", places.code / "main.py"
    mine = places.scratch / "mine"
    return {
        "read": key.read_bytes,
        "list": lambda: os.listdir(places.secrets),
        "write": lambda: key.write_bytes(b"x"),
        "append": lambda: key.open("ab"),
        "open to read and write": lambda: key.open("r+b"),
        "make a file": (places.secrets / "new").touch,
        "make a folder": (places.secrets / "folder").mkdir,
        "make a link": lambda: (places.secrets / "link").symlink_to("key"),
        "make a fifo": lambda: os.mkfifo(places.secrets / "fifo"),
        "read through a link": lambda: through_a_link(mine, key),
        "rename in": lambda: os.rename(written(mine), places.secrets / "mine"),
        "rename out": lambda: os.rename(key, places.scratch / "key"),
        "link out": lambda: os.link(key, places.scratch / "linked"),
        "remove a folder": (places.secrets / "empty").rmdir,
        "write code": lambda: main.write_bytes(b"x"),
        "make code": (places.code / "new.py").touch,
        "remove code": main.unlink,
        "read the root": lambda: os.listdir("/"),
        "read of the machine": Path("/proc/version").read_bytes,
        "read the environment of the parent": Path(f"/proc/{os.getppid()}/environ").read_bytes,
        "list processes": lambda: os.listdir("/proc"),
        "list shared memory": lambda: os.listdir("/dev/shm"),
        "open a terminal": lambda: os.open("/dev/ptmx", os.O_RDWR),
    }


def written(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def through_a_link(link: Path, target: Path) -> bytes:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        return link.read_bytes()
    finally:
        link.unlink()


def try_all(places: Places) -> dict[str, str]:
    return {name: error_of(attempt) for name, attempt in attempts_on(places).items()}


def test_nothing_but_what_is_given_can_be_opened_or_changed(who: Identity, places: Places) -> None:
    results = who.run(partial(try_all, places), layer=places.landlock())
    # A link or rename into a folder with other rights is told like one to another file system.
    crossing = {"rename in", "rename out", "link out"}
    refused = {name: {"EACCES", "EXDEV"} if name in crossing else {"EACCES"} for name in results}
    assert {name: error for name, error in results.items() if error not in refused[name]} == {}
    assert (places.secrets / "key").read_text(encoding="utf-8") == "hush"


def test_without_landlock_all_of_it_goes_through(who: Identity, places: Places) -> None:
    results = {
        name: who.run(partial(error_of, attempt))
        for name, attempt in attempts_on(places).items()
        if name not in {"rename out", "read the environment of the parent", "open a terminal"}
    }
    assert results == dict.fromkeys(results, "")


def test_truncation_is_refused_from_abi_3_on(who: Identity, places: Places) -> None:
    if ABI < 3:
        missing("Landlock's ABI 3")
    key = places.secrets / "key"

    def attempt() -> list[str]:
        return [
            error_of(lambda: os.truncate(key, 0)),
            error_of(lambda: os.open(places.code / "main.py", os.O_RDONLY | os.O_TRUNC)),
        ]

    assert who.run(attempt, layer=places.landlock()) == ["EACCES", "EACCES"]
    # What the seccomp layer makes up for on older kernels.
    assert who.run(attempt, layer=places.landlock(abi=2)) == ["", ""]
    assert key.read_bytes() == b""


@pytest.mark.parametrize("abi", range(1, max(ABI, 1) + 1))
def test_every_abi_closes_files_and_leaves_the_scratch_folder_usable(
    who: Identity, places: Places, abi: int
) -> None:
    def attempt() -> list[str]:
        here = places.scratch
        (here / "deep").mkdir()
        moved = error_of(lambda: os.rename(written(here / "file"), here / "deep" / "file"))
        shutil.rmtree(here / "deep")
        return [error_of((places.secrets / "key").read_bytes), moved]

    moved = "" if abi >= 2 else "EXDEV"
    assert who.run(attempt, layer=places.landlock(abi=abi)) == ["EACCES", moved]


def test_rights_of_each_abi_are_as_many_as_the_kernel_documents() -> None:
    counts = [bin(linux_landlock._handled(abi)).count("1") for abi in range(1, 9)]
    assert counts == [13, 14, 15, 15, 16, 16, 16, 16]


def test_nothing_can_be_executed_unless_allowed(who: Identity, places: Places) -> None:
    def attempt() -> str:
        return error_of(lambda: subprocess.run(["/bin/true"], check=True))

    assert who.run(attempt, layer=places.landlock()) == "EACCES"
    assert who.run(attempt, layer=places.landlock(executable=["/usr"])) == ""


def test_scratch_folder_takes_no_devices_and_no_sockets(who: Identity, places: Places) -> None:
    def attempt() -> list[str]:
        path = str(places.scratch / "socket")
        with socket.socket(socket.AF_UNIX) as server:
            results = [error_of(lambda: server.bind(path))]
        device = os.makedev(1, 3)
        return [*results, error_of(lambda: os.mknod(places.scratch / "null", 0o020600, device))]

    assert who.run(attempt, layer=places.landlock()) == ["EACCES", "EACCES"]
    assert who.run(attempt)[0] == ""


def test_tcp_is_refused_from_abi_4_on(who: Identity, places: Places) -> None:
    if ABI < 4:
        missing("Landlock's ABI 4")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def attempt() -> list[str]:
            with socket.socket() as one, socket.socket() as two:
                return [
                    error_of(lambda: one.connect(server.getsockname())),
                    error_of(lambda: two.bind(("127.0.0.1", 0))),
                ]

        assert who.run(attempt, layer=places.landlock()) == ["EACCES", "EACCES"]
        assert who.run(attempt, layer=places.landlock(abi=3)) == ["", ""]


def test_signals_and_abstract_sockets_stay_inside_from_abi_6_on(
    who: Identity, places: Places
) -> None:
    if ABI < 6:
        missing("Landlock's ABI 6")
    name = f"\0anymind-test-{os.getpid()}"

    def attempt() -> list[str]:
        with socket.socket(socket.AF_UNIX) as client:
            return [
                call("kill", os.getppid(), 0),
                call("kill", os.getpid(), 0),
                error_of(lambda: client.connect(name)),
            ]

    def attempt_below_a_neighbour(layer: Callable[[], None]) -> Any:
        return Identity(None).run(attempt, layer=layer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        results = who.run(lambda: attempt_below_a_neighbour(places.landlock()))
        assert results == ["EPERM", "", "EPERM"]
        assert who.run(lambda: attempt_below_a_neighbour(nothing)) == ["", "", ""]


def test_parent_can_still_kill_the_child(who: Identity, places: Places) -> None:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        if who.uid is not None:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
        places.landlock()()
        os.write(writable, b"x")
        while True:
            signal.pause()
    assert os.read(readable, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    os.close(readable)
    os.close(writable)


def test_devices_serve_but_take_no_commands_from_abi_5_on(who: Identity, places: Places) -> None:
    def attempt() -> list[Any]:
        Path("/dev/null").write_bytes(b"x")
        fd = os.open("/dev/urandom", os.O_RDONLY)
        entropy = bytearray(4)
        return [len(os.read(fd, 4)), error_of(lambda: fcntl.ioctl(fd, 0x80045200, entropy))]

    assert who.run(attempt, layer=places.landlock()) == [4, "EACCES" if ABI >= 5 else ""]
    assert who.run(attempt) == [4, ""]


def test_rights_are_gone_for_good(who: Identity, places: Places) -> None:
    def attempt() -> str:
        linux_landlock.restrict(readable=[*RUNTIME], writable=[str(places.secrets)], abi=ABI)
        return error_of((places.secrets / "key").read_bytes)

    assert who.run(attempt, layer=places.landlock()) == "EACCES"


def test_what_was_open_stays_open(who: Identity, places: Places) -> None:
    file = (places.secrets / "key").open("rb")

    assert who.run(lambda: file.read().decode(), layer=places.landlock()) == "hush"
    file.close()


def test_two_children_do_not_open_each_others_folders(who: Identity, folder: Path) -> None:
    both = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        both.append(Places(folder / name, who))

    def attempt(mine: Places, other: Places) -> list[str]:
        return [
            error_of(lambda: written(mine.scratch / "file")),
            error_of(lambda: written(other.scratch / "file")),
            error_of((other.code / "main.py").read_bytes),
        ]

    for mine, other in (both, both[::-1]):
        results = who.run(partial(attempt, mine, other), layer=mine.landlock())
        assert results == ["", "EACCES", "EACCES"]


@pytest.mark.parametrize("name", EVERYDAY)
def test_ordinary_python_works(who: Identity, places: Places, name: str) -> None:
    def attempt() -> bool:
        os.chdir(places.scratch)
        return bool(EVERYDAY[name](places.scratch))

    assert who.run(attempt, layer=places.landlock())


@pytest.mark.parametrize("name", EVERYDAY)
def test_ordinary_python_works_behind_both_walls(who: Identity, places: Places, name: str) -> None:
    program = linux_seccomp.build_filter(
        allows_processes=False, has_own_pids=False, is_only_wall=True, landlock_abi=ABI
    )

    def layers() -> None:
        places.landlock()()
        linux_seccomp.install(program, os.getpid())

    def attempt() -> bool:
        os.chdir(places.scratch)
        return bool(EVERYDAY[name](places.scratch))

    assert who.run(attempt, layer=layers)


def test_runtime_holds_the_standard_library_and_no_packages_of_an_environment() -> None:
    real = os.path.realpath(os.__file__)
    assert any(real.startswith(path + os.sep) for path in RUNTIME)
    if sys.prefix != sys.base_prefix:
        own = os.path.realpath(pytest.__file__)
        assert not any(own.startswith(path + os.sep) for path in RUNTIME)
    assert not {"/", "/usr", "/etc", "/home", "/root", "/tmp", "/var", "/proc"} & set(RUNTIME)


def test_paths_are_real_and_none_lies_in_another() -> None:
    assert [os.path.realpath(path) for path in RUNTIME] == list(RUNTIME)
    assert [a for a in RUNTIME for b in RUNTIME if a != b and a.startswith(b + os.sep)] == []


def test_a_path_that_is_not_there_fails_the_set_up(who: Identity, places: Places) -> None:
    gone = partial(linux_landlock.restrict, readable=["/nowhere"], writable=[], abi=ABI)
    assert who.run(lambda: error_of(gone)) == "ENOENT"


def test_a_kernel_without_landlock_is_told_so() -> None:
    with pytest.raises(OSError, match="has none or it is switched off") as caught:
        linux_landlock.restrict(readable=[], writable=[], abi=0)
    assert caught.value.errno == errno.EOPNOTSUPP
