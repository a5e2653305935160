"""Durable writing, and deleting what hostile code may have filled."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anymind_lite import files
from anymind_lite.files import (
    TreeTooLarge,
    check_tree,
    make_dir_durable,
    remove_tree,
    write_durable,
)
from tests.live_server import ROOT
from tests.processes import open_descriptors

NOBODY = 65534


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


WRITE_HALF = """
import os, signal, sys
from pathlib import Path
from anymind_lite.files import write_durable
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
write_durable(Path(sys.argv[1]), b"half of it")
"""


class TestWriteDurable:
    @pytest.mark.parametrize("old", [None, b"", b"old", b"much longer than the new content"])
    def test_content_is_replaced_as_a_whole(self, tmp_path: Path, old: bytes | None) -> None:
        path = tmp_path / "file"
        if old is not None:
            path.write_bytes(old)
        write_durable(path, b"new")
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names_in(tmp_path) == ["file"]

    def test_reader_of_the_old_file_keeps_all_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_durable(path, b"old")
        with path.open("rb") as reader:
            write_durable(path, b"new")
            assert reader.read() == b"old"

    def test_link_is_replaced_and_its_target_left_alone(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_bytes(b"target")
        link.symlink_to(target)
        write_durable(link, b"new")
        assert not link.is_symlink()
        assert (link.read_bytes(), target.read_bytes()) == (b"new", b"target")

    @pytest.mark.parametrize("step", ["fsync", "rename"])
    def test_failure_leaves_the_old_content_and_no_temporary_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
        with pytest.raises(OSError, match="No space"):
            write_durable(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert names_in(tmp_path) == ["file"]

    def test_what_a_killed_writer_left_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        done = subprocess.run([sys.executable, "-c", WRITE_HALF, str(path)], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(names_in(tmp_path)) == 1
        write_durable(path, b"new")
        assert names_in(tmp_path) == ["file"]
        assert path.read_bytes() == b"new"

    def test_folder_in_the_way_leaves_no_temporary_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        with pytest.raises(IsADirectoryError):
            write_durable(tmp_path / "file", b"new")
        assert names_in(tmp_path) == ["file"]


def test_missing_parents_are_made_and_only_the_owner_may_enter(tmp_path: Path) -> None:
    make_dir_durable(tmp_path / "a" / "b")
    make_dir_durable(tmp_path / "a" / "b")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="a"):
        make_dir_durable(tmp_path / "a" / "b")


# What an agent can make of a folder. Each maker gets the tree and a folder outside of it.


def fill_with_files(tree: Path, _outside: Path) -> None:
    for number in range(500):
        (tree / f"file {number}\n").write_bytes(b"x")


def link_outside(tree: Path, outside: Path) -> None:
    (tree / "to_folder").symlink_to(outside)
    (tree / "to_file").symlink_to(outside / "kept")
    (tree / "dangling").symlink_to(outside / "nothing")
    (tree / "to_itself").symlink_to("to_itself")


def link_outside_from_inner_folders(tree: Path, outside: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    for folder in (tree / "a", tree / "a" / "b"):
        link_outside(folder, outside)


def link_hard(tree: Path, outside: Path) -> None:
    os.link(outside / "kept", tree / "hard")


def make_fifos(tree: Path, _outside: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "a").mkdir()
    os.mkfifo(tree / "a" / "fifo")


def make_sockets(tree: Path, _outside: Path) -> None:
    (tree / "a").mkdir()
    for folder in (tree, tree / "a"):
        fd = os.open(folder, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{fd}/socket")  # a Unix path has 108 bytes (unix(7))
        os.close(fd)


def close_folders(tree: Path, _outside: Path) -> None:
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "c" / "file").touch()
    for folder in (tree / "a" / "b" / "c", tree / "a" / "b", tree / "a"):
        folder.chmod(0)


def close_the_tree(tree: Path, outside: Path) -> None:
    close_folders(tree, outside)
    tree.chmod(0)


def make_read_only(tree: Path, _outside: Path) -> None:
    (tree / "a").mkdir()
    for folder in (tree / "a", tree):
        (folder / "file").touch()
        (folder / "file").chmod(0)
        folder.chmod(0o500)


def nest_deeply(tree: Path, _outside: Path, levels: int = 2500) -> None:
    """More levels than recursion, descriptors or the length of a path (4,096 bytes) allow."""
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


def use_odd_names(tree: Path, _outside: Path) -> None:
    for name in (b"\xff\xfe", b"-rf", b"\n", "é".encode(), b"x" * 255, b"*"):
        os.mkdir(os.path.join(os.fsencode(tree), name))
        os.mkdir(os.path.join(os.fsencode(tree), name, name))


MAKERS = [
    fill_with_files,
    link_outside,
    link_outside_from_inner_folders,
    link_hard,
    make_fifos,
    make_sockets,
    close_folders,
    close_the_tree,
    make_read_only,
    nest_deeply,
    use_odd_names,
]


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that anybody may write to, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="anymind-tree-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def as_nobody(action: Callable[[], None]) -> int:
    """Run it in a child without root's privileges, for which every mode is open; return its exit
    code. Without root it is simply run.
    """
    if os.getuid() != 0:
        action()
        return 0
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestRemoveTree:
    @pytest.mark.parametrize("fill", MAKERS)
    def test_nothing_is_left_and_nothing_outside_is_touched(
        self, ground: Path, fill: Callable[[Path, Path], None]
    ) -> None:
        tree, outside = ground / "tree", ground / "outside"

        def make_and_remove() -> None:
            outside.mkdir()
            (outside / "kept").write_text("kept")
            tree.mkdir()
            fill(tree, outside)
            remove_tree(tree)

        assert as_nobody(make_and_remove) == 0
        assert names_in(ground) == ["outside"]
        assert names_in(outside) == ["kept"]
        assert (outside / "kept").read_text() == "kept"

    def test_others_may_remove_it_meanwhile(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        removers = 4
        for _ in range(20):
            for number in range(60):
                folder = tree / f"a{number % 3}" / f"b{number % 7}" / "c"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"file{number}").touch()
            begin = threading.Barrier(removers)

            def remove(begin: threading.Barrier = begin) -> None:
                begin.wait()
                remove_tree(tree)

            with ThreadPoolExecutor(removers) as threads:
                for one in [threads.submit(remove) for _ in range(removers)]:
                    one.result()
            assert names_in(tmp_path) == []

    def test_missing_path_is_no_error(self, tmp_path: Path) -> None:
        remove_tree(tmp_path / "nothing")
        remove_tree(tmp_path / "nothing" / "at all")

    @pytest.mark.parametrize("kind", ["file", "fifo", "link to a folder", "dangling link"])
    def test_what_is_no_folder_is_refused_and_left(self, tmp_path: Path, kind: str) -> None:
        outside, path = tmp_path / "outside", tmp_path / "path"
        outside.mkdir(mode=0o755)
        outside.chmod(0o755)
        (outside / "kept").touch()
        match kind:
            case "file":
                path.touch()
            case "fifo":
                os.mkfifo(path)
            case "link to a folder":
                path.symlink_to(outside)
            case _:
                path.symlink_to(tmp_path / "nothing")
        with pytest.raises(NotADirectoryError, match="path"):
            remove_tree(path)
        assert names_in(tmp_path) == ["outside", "path"]
        assert names_in(outside) == ["kept"]
        assert stat.S_IMODE(outside.stat().st_mode) == 0o755

    @pytest.mark.slow
    def test_no_descriptor_stays_open(self, tmp_path: Path) -> None:
        before = open_descriptors()
        tree = tmp_path / "tree"
        tree.mkdir()
        nest_deeply(tree, tmp_path, levels=5000)
        remove_tree(tree)
        assert open_descriptors() == before

    def test_a_link_put_in_place_of_a_folder_is_not_followed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        victim.chmod(0o644)
        tree = tmp_path / "tree"
        (tree / "inner").mkdir(parents=True)
        look = files._is_dir

        def look_then_swap(name: str, dir_fd: int) -> bool:
            found = look(name, dir_fd)
            if found and name == "inner":
                os.rmdir(name, dir_fd=dir_fd)
                os.symlink(victim, name, dir_fd=dir_fd)
            return found

        monkeypatch.setattr(files, "_is_dir", look_then_swap)
        with pytest.raises(OSError):  # noqa: PT011 - ELOOP or ENOTDIR, as the kernel likes
            remove_tree(tree)
        assert stat.S_IMODE(victim.stat().st_mode) == 0o644
        assert victim.read_text() == "precious"


# check_tree ---------------------------------------------------------------------------------------


def test_tree_within_its_bounds_passes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 4096)
    (tmp_path / "link").symlink_to("/")  # is not followed
    check_tree(tmp_path, max_entries=3, max_bytes=1_000_000)


def make_files(path: Path) -> None:
    for number in range(201):
        (path / str(number)).touch()


def make_links(path: Path) -> None:
    for number in range(201):
        (path / str(number)).symlink_to("x")


def nested(path: Path) -> None:
    for _ in range(150):
        path = path / "d"
        path.mkdir()


TOO_MUCH: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: (path / "file").write_bytes(b"x" * 200_000),
    "files": make_files,
    "links": make_links,
    "depth": nested,
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_tree_that_holds_too_much_is_told(tmp_path: Path, kind: str) -> None:
    TOO_MUCH[kind](tmp_path)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(TreeTooLarge):
        check_tree(tmp_path, max_entries=200, max_bytes=100_000)
    assert len(os.listdir("/dev/fd")) == before


def test_sparse_file_counts_what_it_takes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    check_tree(tmp_path, max_entries=10, max_bytes=1_000_000)
