"""The composition root: it takes all or nothing, and gives all of it back."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anymind_lite import backend as backend_module
from anymind_lite import database as database_module
from anymind_lite.backend import Backend
from anymind_lite.config import Settings, load_settings
from anymind_lite.database import open_database, open_to_read, write_transaction
from anymind_lite.errors import DiskFull, EndNotWritten, StartupError
from anymind_lite.models import AgentVersion, Execution
from anymind_lite.sandbox.in_server.cgroup import Cgroups, NotDelegated
from anymind_lite.services.accounts import Registration, register
from anymind_lite.services.agents import create_agent, get_agent
from anymind_lite.services.executions import execute_agent
from anymind_lite.services.versions import create_version
from tests.live_server import pack_agent
from tests.many_rows import fill
from tests.processes import descendants
from tests.waiting import wait_for

ECHO = pack_agent("def handle(payload):\n    return payload\n")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environ = {"PASSWORD_HASH_ROUNDS": "4"}
    return load_settings(tmp_path, environ=environ).settings


@pytest.fixture
def backend(settings: Settings) -> Iterator[Backend]:
    backend = Backend(settings)
    yield backend
    backend.stop()


class Footprint:
    """What this process holds beside memory."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.processes = descendants(os.getpid())
        self.descriptors = {
            fd: os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Footprint) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def footprint() -> Iterator[Footprint]:
    before = Footprint()
    yield before
    wait_for(lambda: Footprint() == before, f"nothing to be left but {before}")


def run_agent(backend: Backend, name: str) -> object:
    """Upload, build and execute an agent; return the status of its execution."""
    registration = Registration(f"{name}@example.com", name, "correct horse")
    user = register(registration, passwords=backend.passwords)
    agent = create_agent(user, name)
    create_version(
        user,
        agent.id,
        filename="agent.tar.gz",
        chunks=[ECHO],
        store=backend.store,
        build_queue=backend.build_queue,
    )
    wait_for(lambda: get_agent(user, agent.id).status != "building", "the build")
    return execute_agent(user, agent.id, {}, executor=backend.executor).row.status


def test_second_backend_on_the_same_folder_is_refused_with_the_pid(
    backend: Backend, settings: Settings
) -> None:
    backend.start()
    running = Footprint()
    with pytest.raises(StartupError, match=rf"pid {os.getpid()}\).*--data"):
        Backend(settings).start()
    assert Footprint() == running
    assert run_agent(backend, "first") == "completed"


def test_stop_leaves_nothing_behind_and_can_be_repeated(
    backend: Backend, footprint: Footprint
) -> None:
    backend.start()
    assert run_agent(backend, "person") == "completed"
    backend.stop()
    assert Footprint() == footprint
    backend.stop()


def test_backend_that_never_started_can_be_stopped(backend: Backend) -> None:
    backend.stop()


def test_backend_serves_again_after_a_second_start(backend: Backend) -> None:
    for name in ("first", "second"):
        backend.start()
        assert run_agent(backend, name) == "completed"
        backend.stop()


def test_import_and_construction_touch_nothing(
    settings: Settings, tmp_path: Path, footprint: Footprint
) -> None:
    before = sorted(tmp_path.rglob("*"))
    Backend(settings)
    assert sorted(tmp_path.rglob("*")) == before
    assert Footprint() == footprint


def damage_database(settings: Settings) -> None:
    settings.database_path.write_text("no database" * 1000)


def put_folder_for_queue(settings: Settings) -> None:
    settings.queue_path.mkdir()


def put_file_for_artifacts(settings: Settings) -> None:
    settings.storage_path.write_text("no folder")


@pytest.mark.parametrize("spoil", [damage_database, put_folder_for_queue, put_file_for_artifacts])
def test_failing_start_leaves_neither_process_nor_lock(
    settings: Settings, footprint: Footprint, spoil: Callable[[Settings], None]
) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    spoil(settings)
    for _ in range(2):  # the second would be refused by a lock that the first left
        with pytest.raises(StartupError, match=str(settings.data_dir)):
            Backend(settings).start()
        assert Footprint() == footprint


def test_control_group_is_asked_for_before_there_is_any_other_process(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shares the group with a process of its own, such as the reader, is never given it."""
    before, seen = descendants(os.getpid()), []

    def take() -> Cgroups:
        seen.append(descendants(os.getpid()) - before)
        raise NotDelegated("a test")

    monkeypatch.setattr(Cgroups, "take", take)
    backend.start()
    assert seen == [set()]
    assert backend.sandbox.ground.refusals["cgroup"] == "a test"


def test_drain_ends_at_once_when_nothing_runs(backend: Backend) -> None:
    backend.start()
    assert backend.drain(0)


@pytest.mark.parametrize(
    ("left", "is_refused"),
    [("agents/1/artifacts/agent_1_ab.tar.gz", True), ("agents/1/artifacts", False)],
)
def test_lost_database_is_missed_only_beside_artifacts(
    backend: Backend, settings: Settings, left: str, is_refused: bool
) -> None:
    path = settings.storage_path / left
    if is_refused:
        path.parent.mkdir(parents=True)
        path.touch()
        with pytest.raises(StartupError, match="is missing, but"):
            backend.start()
    else:
        path.mkdir(parents=True)
        backend.start()


def make_no_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    assert path.stat().st_size == 4096


def make_no_migration(path: Path) -> None:
    """As a first start that was killed right after it made the table of migrations."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE schema_migration (id INTEGER PRIMARY KEY, name TEXT, applied TEXT)"
        )


def make_no_rows(path: Path) -> None:
    open_database(path).close_all()


@pytest.mark.parametrize("make", [make_no_tables, make_no_migration, make_no_rows])
def test_a_database_that_knows_nobody_beside_artifacts_is_a_lost_one(
    backend: Backend, settings: Settings, make: Callable[[Path], None]
) -> None:
    """Ids would begin at 1 again, and a deletion take the files of who had them before."""
    artifact = settings.storage_path / "agents/1/artifacts/agent_1_ab.tar.gz"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    make(settings.database_path)
    before = settings.database_path.read_bytes()
    with pytest.raises(StartupError, match="is missing, but"):
        backend.start()
    assert settings.database_path.read_bytes() == before
    artifact.unlink()
    backend.start()


def test_the_first_upload_of_a_server_that_was_killed_does_not_stop_the_next(
    backend: Backend, settings: Settings
) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    fill(settings.database_path)  # with a user, and no version
    artifact = settings.storage_path / "agents/1/artifacts/agent_1_ab.tar.gz"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    backend.start()
    assert (settings.storage_path / ".trash" / artifact.name).exists()


def test_a_database_of_another_program_beside_artifacts_is_called_that(
    backend: Backend, settings: Settings
) -> None:
    artifact = settings.storage_path / "agents/1/artifacts/agent_1_ab.tar.gz"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    with closing(sqlite3.connect(settings.database_path)) as connection:
        connection.execute("CREATE TABLE user (id)")
    with pytest.raises(StartupError, match="belongs to another program"):
        backend.start()


def start_with_queued(backend: Backend, monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Start with so many queued builds, no timer, and a builder that has none to do; return what it
    builds.
    """
    settings = backend.settings
    settings.data_dir.mkdir(exist_ok=True)
    fill(settings.database_path, queued=count)
    monkeypatch.setattr(backend_module, "_REPAIR_SECONDS", 3600.0)
    built: list[int] = []

    def build(version_id: int) -> bool:
        with write_transaction():
            query = AgentVersion.update(status="ready").where(AgentVersion.id == version_id)
            query.where(AgentVersion.status == "queued").execute()
        built.append(version_id)
        return True

    monkeypatch.setattr(backend._builder, "build_version", build)
    backend.start()
    return built


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_queued_builds_do_not_wait_for_the_timer(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The queue is told of a hundred at a time; who takes the last one asks for more."""
    built = start_with_queued(backend, monkeypatch, count)
    wait_for(lambda: len(set(built)) == count, f"{count} builds")
    assert AgentVersion.select().where(AgentVersion.status == "queued").count() == 0
    assert len(built) < 1.05 * count  # a hint may be doubled, not all of them


def test_a_queue_that_is_told_of_a_hundred_builds_and_no_more_is_found(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "_build", lambda self, one: self._builder.build_version(one))
    backend.build_queue._build = backend._build
    built = start_with_queued(backend, monkeypatch, 1000)
    with pytest.raises(AssertionError, match="1000 builds"):
        wait_for(lambda: len(set(built)) == 1000, "1000 builds", 3)
    assert len(set(built)) == 100


def test_builds_that_cannot_be_done_now_are_left_to_the_timer(
    backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk fails the next build like this one: nobody spins."""
    settings.data_dir.mkdir(exist_ok=True)
    fill(settings.database_path, queued=150)
    monkeypatch.setattr(backend_module, "_REPAIR_SECONDS", 3600.0)
    tried: list[int] = []
    monkeypatch.setattr(backend._builder, "build_version", tried.append)
    backend.start()
    wait_for(lambda: len(tried) == 100, "the first hundred to be tried")
    wait_for(backend.build_queue.is_empty, "the queue to be empty")
    backend.stop()
    assert sorted(tried) == list(range(11, 111))


@pytest.fixture
def lock(
    backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sqlite3.Connection]:
    """Start, and execute an agent during whose run another program begins to lock the database."""
    monkeypatch.setattr(database_module, "_LOCK_TIMEOUT_SECONDS", 0.05)
    run = backend.executor.run
    backend.start()
    with closing(sqlite3.connect(settings.database_path, isolation_level=None)) as other:

        def run_and_lock(*arguments: Any) -> Any:
            outcome = run(*arguments)
            other.execute("BEGIN IMMEDIATE")
            return outcome

        monkeypatch.setattr(backend.executor, "run", run_and_lock)
        with pytest.raises(EndNotWritten, match="Execution 1 has ended"):
            run_agent(backend, "person")
        yield other


def ends_in(settings: Settings) -> list[Any]:
    with closing(open_to_read(settings.database_path)) as connection:
        query = "SELECT status, output_data, error_code FROM execution"
        return connection.execute(query).fetchall()


class TestEnds:
    """Of an execution that ended while the database was locked."""

    @pytest.fixture(autouse=True)
    def repair_seconds(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "_REPAIR_SECONDS", getattr(request, "param", 3600.0))
        # A repair so often would look at the queue once more while it is being closed.
        monkeypatch.setattr(backend_module, "hint_queued", lambda _queue: None)

    @pytest.mark.parametrize("repair_seconds", [0.01], indirect=True)
    def test_is_written_by_the_timer(self, settings: Settings, lock: sqlite3.Connection) -> None:
        assert ends_in(settings) == [("running", None, None)]
        lock.rollback()
        wait_for(lambda: ends_in(settings) == [("completed", "{}", None)], "the end")

    def test_is_written_by_the_stop_at_the_latest(
        self, backend: Backend, settings: Settings, lock: sqlite3.Connection
    ) -> None:
        lock.rollback()
        assert ends_in(settings) == [("running", None, None)]
        backend.stop()
        assert ends_in(settings) == [("completed", "{}", None)]

    def test_is_lost_with_the_process_and_the_log_says_so(
        self,
        backend: Backend,
        settings: Settings,
        lock: sqlite3.Connection,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        backend.stop()
        assert "event=end_lost execution_id=1" in caplog.text
        lock.rollback()
        backend.start()
        assert ends_in(settings) == [("failed", None, "server_restarted")]


def test_old_executions_go_while_the_server_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    fill(settings.database_path, executions=500)
    monkeypatch.setattr(backend_module, "_RETENTION_SECONDS", 0.01)
    backend = Backend(replace(settings, execution_retention_count=7))
    backend.start()
    try:
        wait_for(lambda: Execution.select().count() == 70, "7 of each of the 10 agents")
    finally:
        backend.stop()


def test_little_room_of_the_settings_is_kept(settings: Settings) -> None:
    backend = Backend(replace(settings, disk_reserve_mb=1 << 20))
    settings.storage_path.mkdir(parents=True)
    for reserve in (backend.disk, backend.upload_disk):
        with pytest.raises(DiskFull, match=r"1,048,576 MB stay in reserve"):
            reserve.require()
