"""What a reading that was taken over leaves behind, and how the server gets past it."""

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from anymind_lite.errors import BuildError
from anymind_lite.models import AgentVersion
from anymind_lite.reader.in_server import Reader
from anymind_lite.services.code import ensure_code, unpack_code
from anymind_lite.storage import ArtifactStore
from tests.reader.conftest import GOOD, Start

# Claims a sound archive of one top folder, whatever stands there.
_ANSWER = """
from anymind_lite.manifest import load_manifest
def answer(fd, document):
    manifest = in_reading.asdict(load_manifest("name: a\\nentrypoint: main:h\\n", ["main.py"]))
    files = ["anymind.yaml", "main.py"]
    document = {"unpacked": {"files": files, "root": ROOT, "manifest": manifest}}
    os.write(fd, json.dumps(document).encode())
in_reading._answer = answer
"""


@dataclass
class Outside:
    """A folder of the server's that nobody may touch, and the store beside it."""

    folder: Path
    store: ArtifactStore

    def assert_untouched(self) -> None:
        assert stat.S_IMODE(self.folder.stat().st_mode) == 0o710
        assert (self.folder / "kept").read_text() == "kept"
        assert os.listdir(self.folder) == ["kept"]


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    folder.chmod(0o710)
    store = ArtifactStore(
        tmp_path / "store", tmp_path / "code", max_upload_bytes=10**6, is_tar_gz=lambda _: True
    )
    store.start()
    return Outside(folder, store)


def version_in(store: ArtifactStore) -> AgentVersion:
    saved = store.save_artifact(5, [GOOD])
    return AgentVersion(id=7, agent=5, tarball_path=saved.path, tarball_sha256=saved.sha256)


# What stands in the folder, and which root is claimed.
NO_FOLDERS = {
    "link": "os.symlink({outside!r}, 'top', dir_fd=folder)",
    "link to a file": "os.symlink({outside!r} + '/kept', 'top', dir_fd=folder)",
    "dangling link": "os.symlink('nowhere', 'top', dir_fd=folder)",
    "pipe": "os.mkfifo('top', dir_fd=folder)",
    "file": "os.close(os.open('top', os.O_CREAT | os.O_WRONLY, dir_fd=folder))",
    "nothing": "pass",
}


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_root_that_is_no_folder_is_refused(start: Start, outside: Outside, name: str) -> None:
    attack = NO_FOLDERS[name].format(outside=str(outside.folder)) + "\nreturn ()"
    reader = start(attack, _ANSWER.replace("ROOT", "'top'"))
    with pytest.raises(OSError):  # noqa: PT011 - ENOTDIR, ELOOP or ENOENT
        unpack_code(version_in(outside.store), store=outside.store, reader=reader)
    outside.assert_untouched()
    assert not outside.store.code_dir(5, 7).is_symlink()
    assert os.listdir(outside.store.code_dir(5, 7).parent) == []
    assert os.listdir(outside.store.code_dir(5, 7).parent.parent) == ["5"]


HOSTILE_TREE = """
os.symlink({outside!r}, 'link', dir_fd=folder)
os.symlink({outside!r} + '/kept', 'main.py', dir_fd=folder)
os.mkfifo('anymind.yaml', dir_fd=folder)
os.mkdir('closed', 0, dir_fd=folder)
os.mkdir('half', 0o300, dir_fd=folder)
os.symlink('..', 'half/up', dir_fd=folder)
os.close(os.open('setuid', os.O_CREAT | os.O_WRONLY, 0o6755, dir_fd=folder))
here = os.open('.', os.O_RDONLY, dir_fd=folder)
for _ in range({levels}):
    os.mkdir('d', dir_fd=here)
    below = os.open('d', os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
return ()
"""


# More levels than recursion allows; and more than a path has bytes. Each is made durable.
@pytest.mark.parametrize("levels", [1100, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_hostile_tree_is_put_in_place_and_removed_again(
    start: Start, outside: Outside, levels: int
) -> None:
    attack = HOSTILE_TREE.format(outside=str(outside.folder), levels=levels)
    reader, store = start(attack, _ANSWER.replace("ROOT", "''")), outside.store
    folder, _ = unpack_code(version_in(store), store=store, reader=reader)
    assert folder.is_dir()
    outside.assert_untouched()
    store.remove_code(5, 7)
    assert not folder.exists()
    outside.assert_untouched()


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", ["raise BuildError('no')", "os._exit(3)", "os.kill(os.getpid(), 9)"]
)
def test_a_hostile_tree_of_a_failed_reading_leaves_nothing(
    start: Start, outside: Outside, end: str
) -> None:
    attack = HOSTILE_TREE.format(outside=str(outside.folder), levels=5000)
    attack = attack.replace("return ()", end)
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is another test's claim
        unpack_code(version_in(outside.store), store=outside.store, reader=start(attack))
    outside.assert_untouched()
    assert os.listdir(outside.store.code_dir(5, 7).parent.parent) == []


def test_of_two_unpackings_the_first_wins(start: Start, outside: Outside) -> None:
    reader, version = start(), version_in(outside.store)
    folders: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: folders.append(ensure_code(version, store=outside.store, reader=reader))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(folders) == {outside.store.code_dir(5, 7)}
    assert len(folders) == 4
    assert sorted(os.listdir(folders[0])) == ["anymind.yaml", "main.py"]
    assert os.listdir(folders[0].parent.parent) == ["5"]


def test_code_that_is_there_is_not_read_again(start: Start, outside: Outside) -> None:
    version, reader = version_in(outside.store), start()
    folder = ensure_code(version, store=outside.store, reader=reader)
    reader.stop()
    assert ensure_code(version, store=outside.store, reader=reader) == folder


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_artifact_that_changed_is_never_handed_over(
    outside: Outside, damage: Callable[[Path], None]
) -> None:
    version = version_in(outside.store)
    damage(outside.store.artifact_path(version.tarball_path))
    not_started = Reader.__new__(Reader)
    with pytest.raises(BuildError, match="upload it again"):
        unpack_code(version, store=outside.store, reader=not_started)
