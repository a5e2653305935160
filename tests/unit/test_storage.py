"""The artifact store: whole files or none, and unpacked code put in place as a whole."""

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anymind_lite import storage
from anymind_lite.archive import is_tar_gz
from anymind_lite.errors import BuildError, DiskFull, InvalidInput, TooLarge
from anymind_lite.files import make_dir_durable
from anymind_lite.storage import ArtifactStore, DiskReserve, FreshCode
from tests.live_server import pack_agent
from tests.waiting import DEADLINE_SECONDS

ARCHIVE = pack_agent("def handle(payload): pass\n") + b"padding"
CAP = len(ARCHIVE)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(
        tmp_path / "artifacts", tmp_path / "code", max_upload_bytes=CAP, is_tar_gz=is_tar_gz
    )
    store.start()
    return store


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_chunks(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


class TestSaveArtifact:
    @pytest.mark.parametrize("size", [1, 7, CAP, 10 * CAP])
    def test_keeps_the_very_bytes(self, store: ArtifactStore, tmp_path: Path, size: int) -> None:
        saved = store.save_artifact(5, in_chunks(ARCHIVE, size))
        path = store.artifact_path(saved.path)
        assert path.read_bytes() == ARCHIVE
        assert (saved.sha256, saved.size_bytes) == (hashlib.sha256(ARCHIVE).hexdigest(), CAP)
        assert path.stat().st_mode & 0o777 == 0o600
        assert files_under(tmp_path) == [f"artifacts/{saved.path}"]

    def test_names_are_unique(self, store: ArtifactStore) -> None:
        paths = {store.save_artifact(5, [ARCHIVE]).path for _ in range(50)}
        assert len(paths) == 50
        assert all(path.startswith("agents/5/artifacts/") for path in paths)

    def test_threads_do_not_meet(self, store: ArtifactStore, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as threads:
            saved = list(threads.map(lambda _: store.save_artifact(5, [ARCHIVE]), range(40)))
        assert len(files_under(tmp_path)) == len({one.path for one in saved}) == 40

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            pytest.param(ARCHIVE + b"x", TooLarge, id="a byte too much"),
            pytest.param(ARCHIVE * 1000, TooLarge, id="far too much"),
            pytest.param(b"", InvalidInput, id="nothing"),
            pytest.param(b"no archive", InvalidInput, id="a text"),
            pytest.param(b"PK\x03\x04" + b"\0" * 50, InvalidInput, id="a zip"),
            pytest.param(b"\x1f\x8b", InvalidInput, id="the first two bytes"),
        ],
    )
    def test_what_is_refused_leaves_nothing(
        self, store: ArtifactStore, tmp_path: Path, content: bytes, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            store.save_artifact(5, in_chunks(content, 50))
        assert files_under(tmp_path) == []

    def test_no_more_is_read_than_the_limit_and_one_chunk(self, store: ArtifactStore) -> None:
        chunks = in_chunks(ARCHIVE * 10, CAP)
        with pytest.raises(TooLarge, match=f"{CAP:,} bytes"):
            store.save_artifact(5, chunks)
        assert sum(len(chunk) for chunk in chunks) == 8 * CAP

    @pytest.mark.parametrize("error", [ConnectionError("gone"), ValueError("bad"), SystemExit()])
    def test_a_stream_that_breaks_leaves_nothing(
        self, store: ArtifactStore, tmp_path: Path, error: BaseException
    ) -> None:
        def chunks() -> Iterator[bytes]:
            yield ARCHIVE[:50]
            raise error

        with pytest.raises(type(error)):
            store.save_artifact(5, chunks())
        assert files_under(tmp_path) == []

    @pytest.mark.parametrize("step", ["fsync", "rename", "fsync_dir", "make_dir_durable"])
    def test_a_disk_that_fails_leaves_nothing(
        self, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        owner = {"fsync": os, "rename": Path}.get(step, storage)
        monkeypatch.setattr(owner, step, fail)
        with pytest.raises(OSError, match="No space"):
            store.save_artifact(5, [ARCHIVE])
        assert files_under(tmp_path) == []

    def test_file_and_folder_are_synced_before_it_is_acknowledged(
        self, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "artifacts" / "agents" / "5" / "artifacts"
        events: list[str] = []
        fsync, rename = os.fsync, Path.rename

        def note_fsync(fd: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            events.append(f"fsync {'file' if path.is_file() else path.name}")
            fsync(fd)

        def note_rename(path: Path, target: Path) -> Path:
            assert target.parent == folder
            events.append("rename")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(Path, "rename", note_rename)
        store.save_artifact(5, [ARCHIVE])
        made = ["fsync artifacts", "fsync agents", "fsync 5"]
        assert events == ["fsync file", *made, "rename", "fsync artifacts"]
        events.clear()
        store.save_artifact(5, [ARCHIVE])
        assert events == ["fsync file", "rename", "fsync artifacts"]

    @pytest.mark.parametrize(("times", "is_saved"), [(1, True), (2, False)])
    def test_a_folder_that_vanishes_is_made_once_more(
        self,
        store: ArtifactStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        times: int,
        is_saved: bool,
    ) -> None:
        vanished: list[Path] = []

        def make_and_lose(path: Path) -> None:
            make_dir_durable(path)
            if len(vanished) < times:
                vanished.append(path)
                path.rmdir()

        monkeypatch.setattr(storage, "make_dir_durable", make_and_lose)
        if is_saved:
            saved = store.save_artifact(5, [ARCHIVE])
            assert files_under(tmp_path) == [f"artifacts/{saved.path}"]
        else:
            with pytest.raises(FileNotFoundError):
                store.save_artifact(5, [ARCHIVE])
            assert files_under(tmp_path) == []


class TestOpenArtifact:
    def test_takes_what_was_saved(self, store: ArtifactStore) -> None:
        saved = store.save_artifact(5, [ARCHIVE])
        with store.open_artifact(saved.path, saved.sha256) as artifact:
            assert artifact.read() == ARCHIVE

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "missing"),
            (b"", "damaged"),
            (ARCHIVE[:-1], "damaged"),
            (ARCHIVE + b"x", "damaged"),
            (b"\0" * CAP, "damaged"),
        ],
    )
    def test_refuses_what_changed(
        self, store: ArtifactStore, content: bytes | None, reason: str
    ) -> None:
        saved = store.save_artifact(5, [ARCHIVE])
        path = store.artifact_path(saved.path)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with (
            pytest.raises(BuildError, match=f"{reason} on the server; upload it again"),
            store.open_artifact(saved.path, saved.sha256),
        ):
            pass

    def test_discarding_twice_is_no_error(self, store: ArtifactStore, tmp_path: Path) -> None:
        saved = store.save_artifact(5, [ARCHIVE])
        store.discard_artifact(saved.path)
        store.discard_artifact(saved.path)
        assert files_under(tmp_path) == []

    def test_the_last_discarded_takes_the_empty_folders_along(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        first, second = (store.save_artifact(5, [ARCHIVE]) for _ in range(2))
        store.discard_artifact(first.path)
        assert files_under(tmp_path) == [f"artifacts/{second.path}"]
        store.discard_artifact(second.path)
        assert os.listdir(tmp_path / "artifacts" / "agents") == []


def fill(fresh: FreshCode, root: str = "", text: str = "code") -> None:
    (fresh.path / root).mkdir(exist_ok=True)
    (fresh.path / root / "main.py").write_text(text)


def install(store: ArtifactStore, agent_id: int = 5, version_id: int = 7, root: str = "") -> Path:
    with store.fresh_code() as fresh:
        fill(fresh, root)
        return store.install_code(agent_id, version_id, fresh, root)


class TestInstallCode:
    @pytest.mark.parametrize("root", ["", "project"])
    def test_the_agents_root_is_put_in_place(
        self, store: ArtifactStore, tmp_path: Path, root: str
    ) -> None:
        folder = install(store, root=root)
        assert folder == store.code_dir(5, 7)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert files_under(tmp_path / "code") == ["5/7/main.py"]
        assert os.listdir(tmp_path / "code") == ["5"]

    @pytest.mark.parametrize("error", [BuildError("no archive"), OSError(28, "full")])
    def test_failed_unpacking_leaves_nothing(
        self, store: ArtifactStore, tmp_path: Path, error: Exception
    ) -> None:
        with pytest.raises(type(error)), store.fresh_code() as fresh:  # noqa: PT012
            fill(fresh)
            raise error
        assert os.listdir(tmp_path / "code") == []

    def test_of_two_threads_the_first_wins_and_both_get_its_code(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        both_unpacked = threading.Barrier(2)

        def unpack(text: str) -> str:
            with store.fresh_code() as fresh:
                fill(fresh, text=text)
                both_unpacked.wait(DEADLINE_SECONDS)
                return (store.install_code(5, 7, fresh) / "main.py").read_text()

        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(unpack, ["a", "b"])
        assert first == second
        assert files_under(tmp_path / "code") == ["5/7/main.py"]
        assert os.listdir(tmp_path / "code") == ["5"]

    def test_something_else_in_the_way_is_an_error(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        (tmp_path / "code" / "5").mkdir()
        (tmp_path / "code" / "5" / "7").touch()
        with pytest.raises(OSError, match="7"):
            install(store)
        assert os.listdir(tmp_path / "code") == ["5"]

    @pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "file", "nothing"])
    def test_a_root_that_is_no_folder_is_refused_and_nothing_outside_is_touched(
        self, store: ArtifactStore, tmp_path: Path, kind: str
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        outside.chmod(0o500)
        with pytest.raises(OSError), store.fresh_code() as fresh:  # noqa: PT011, PT012
            leave(fresh.path / "root", kind, outside)
            store.install_code(5, 7, fresh, "root")
        assert not store.code_dir(5, 7).is_symlink()
        assert stat.S_IMODE(outside.stat().st_mode) == 0o500
        assert files_under(tmp_path) == ["outside/kept"]

    @pytest.mark.parametrize("root", ["", "root"])
    def test_a_closed_root_is_opened_and_put_in_place(
        self, store: ArtifactStore, root: str
    ) -> None:
        with store.fresh_code() as fresh:
            fill(fresh, root)
            (fresh.path / root).chmod(0)
            folder = store.install_code(5, 7, fresh, root)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert files_under(folder) == ["main.py"]

    def test_a_fresh_folder_that_was_replaced_is_not_followed(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        with store.fresh_code() as fresh:
            fresh.path.rmdir()
            fresh.path.symlink_to(outside)
        assert files_under(tmp_path) == ["outside/kept"]
        assert os.listdir(tmp_path / "code") == []

    def test_removed_code_can_be_installed_again(self, store: ArtifactStore) -> None:
        for _ in range(2):
            install(store)
            store.remove_code(5, 7)
            store.remove_code(5, 7)
            assert not store.code_dir(5, 7).exists()


def leave(path: Path, kind: str, outside: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(outside)
        case "dangling link":
            path.symlink_to(outside / "nothing")
        case "fifo":
            os.mkfifo(path)
        case "file":
            path.touch()


def test_removing_an_agent_takes_its_files_and_no_others(
    store: ArtifactStore, tmp_path: Path
) -> None:
    for agent_id in (5, 55):
        for version_id in (1, 2):
            store.save_artifact(agent_id, [ARCHIVE])
            install(store, agent_id, version_id)
    store.remove_agent(5)
    store.remove_agent(5)
    assert os.listdir(tmp_path / "artifacts" / "agents") == ["55"]
    assert len(files_under(tmp_path / "artifacts")) == 2
    assert files_under(tmp_path / "code") == ["55/1/main.py", "55/2/main.py"]


def test_removing_an_agent_takes_its_code_where_its_artifacts_cannot_go(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "artifacts" / "agents").mkdir()
    (tmp_path / "artifacts" / "agents" / "5").touch()  # no folder
    install(store)
    with pytest.raises(NotADirectoryError):
        store.remove_agent(5)
    assert files_under(tmp_path / "code") == []


def test_removing_an_agent_outlasts_what_comes_meanwhile(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come and go between the listing of a folder and its removal."""
    saved = store.save_artifact(5, [ARCHIVE])
    install(store)
    folder = tmp_path / "artifacts" / "agents" / "5" / "artifacts"
    rmdir, unlink = os.rmdir, os.unlink
    late = ["late", "later"]

    def rmdir_too_late(path: Any, **options: Any) -> None:
        if path == "artifacts" and late:
            (folder / late.pop()).touch()
        rmdir(path, **options)

    def unlink_too_late(path: Any, **options: Any) -> None:
        if path == Path(saved.path).name:
            unlink(path, **options)  # as the upload does that finds its agent gone
        unlink(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir_too_late)
    monkeypatch.setattr(os, "unlink", unlink_too_late)
    store.remove_agent(5)
    assert late == []
    assert not folder.parent.exists()
    assert files_under(tmp_path) == []


def test_uploads_that_race_with_the_removal_leave_nothing(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Each does what `create_version` does when it finds its agent deleted."""
    may_end = threading.Event()

    def upload() -> int:
        count = 0
        while not may_end.is_set():
            with contextlib.suppress(FileNotFoundError):
                store.discard_artifact(store.save_artifact(5, [ARCHIVE]).path)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(upload) for _ in range(4)]
        try:
            for _ in range(20):
                store.remove_agent(5)
        finally:
            may_end.set()
        assert all(one.result(DEADLINE_SECONDS) for one in uploads)
    store.remove_agent(5)
    assert files_under(tmp_path) == []


def test_start_drops_unfinished_uploads_and_code_and_keeps_artifacts(
    store: ArtifactStore, tmp_path: Path
) -> None:
    saved = store.save_artifact(5, [ARCHIVE])
    install(store)
    (tmp_path / "artifacts" / ".incoming" / "half").write_bytes(b"x")
    (tmp_path / "code" / ".new-1").mkdir()
    store.start()
    assert files_under(tmp_path) == [f"artifacts/{saved.path}"]
    assert os.listdir(tmp_path / "code") == []


def test_free_room_is_told(store: ArtifactStore) -> None:
    assert store.free_bytes() > 0


class TestReserve:
    @pytest.mark.parametrize(
        ("free", "needed", "is_refused"),
        [(999, 0, True), (1000, 0, False), (1500, 500, False), (1500, 501, True), (0, 0, True)],
    )
    def test_what_would_reach_into_it_is_refused(
        self, tmp_path: Path, free: int, needed: int, is_refused: bool
    ) -> None:
        reserve = DiskReserve(tmp_path, reserve_bytes=1000, measure=lambda _: free)
        if is_refused:
            with pytest.raises(DiskFull):
                reserve.require(needed)
        else:
            reserve.require(needed)

    def test_the_fullest_disk_counts(self, tmp_path: Path) -> None:
        free = {tmp_path: 5000, tmp_path / "other": 1200}
        reserve = DiskReserve(*free, reserve_bytes=1000, measure=free.__getitem__)
        assert reserve.spare_bytes() == 200

    def test_message_names_the_figures_and_what_to_do(self, tmp_path: Path) -> None:
        reserve = DiskReserve(tmp_path, reserve_bytes=256 << 20, measure=lambda _: 12 << 20)
        with pytest.raises(DiskFull) as caught:
            reserve.require()
        assert str(caught.value) == (
            "The server's disk is nearly full: 12 MB are free, and 256 MB stay in reserve; delete "
            "agents that are not needed, or have its operator make room or lower DISK_RESERVE_MB"
        )

    def test_zero_refuses_nothing(self, tmp_path: Path) -> None:
        DiskReserve(tmp_path, reserve_bytes=0, measure=lambda _: 0).require(1 << 40)

    def test_it_is_measured_anew_each_time_and_logged_when_it_changes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = [10, 10, 2000, 2000, 5]
        rooms = iter(found)
        reserve = DiskReserve(tmp_path, reserve_bytes=1000, measure=lambda _: next(rooms))
        for _ in found:
            with contextlib.suppress(DiskFull):
                reserve.require()
        events = [record.getMessage().split()[0] for record in caplog.records]
        assert events == [
            "event=disk_reserve_reached",
            "event=disk_reserve_free",
            "event=disk_reserve_reached",
        ]

    def test_the_disk_itself_is_asked(self, tmp_path: Path) -> None:
        free = shutil.disk_usage(tmp_path).free
        spare = DiskReserve(tmp_path, reserve_bytes=1000).spare_bytes()
        assert abs(spare - free) < 1 << 30
