"""Builds: one holder at a time, and whoever lost the claim changes nothing."""

import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.archive import ArchiveLimits
from anymind_lite.database import write_transaction
from anymind_lite.files import remove_tree
from anymind_lite.manifest import LIMIT_KEYS, Manifest, load_manifest
from anymind_lite.models import Agent, AgentVersion, VersionStatus
from anymind_lite.reader.in_server import Reader
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import MEGABYTE, Limits
from anymind_lite.sandbox.protocol import Ground, Job
from anymind_lite.services.builds import Builder, finish_build, mark_building
from anymind_lite.services.recovery import requeue_orphans
from anymind_lite.storage import ArtifactStore, DiskReserve
from tests.live_server import pack_agent
from tests.unit.conftest import Rows
from tests.waiting import DEADLINE_SECONDS, wait_for

READY, FAILED = VersionStatus.READY, VersionStatus.FAILED
MANIFEST = b"name: test\nentrypoint: main:handle\n"
GOOD = "def handle(payload):\n    return payload\n"
BROKEN = "def handle(payload)\n"


@pytest.fixture
def agent(rows: Rows) -> Agent:
    return rows.agent(status="building")


@pytest.fixture
def version(rows: Rows, agent: Agent) -> AgentVersion:
    return rows.version(agent, status="queued")


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest(MANIFEST, ["main.py"])


def row_of(version: AgentVersion) -> dict[str, Any]:
    found: dict[str, Any] = AgentVersion.select().where(AgentVersion.id == version.id).dicts().get()
    return found


def agent_state(agent: Agent) -> tuple[str, int | None]:
    again = Agent.get_by_id(agent.id)
    return again.status, again.current_version_id


class TestGuards:
    def test_second_claim_loses(self, version: AgentVersion) -> None:
        assert mark_building(version.id, "first")
        before = row_of(version)
        assert not mark_building(version.id, "second")
        assert row_of(version) == before
        assert (before["claim"], before["attempts"]) == ("first", 1)

    @pytest.mark.parametrize("status", ["building", "ready", "failed"])
    def test_only_a_queued_version_is_claimed(self, rows: Rows, agent: Agent, status: str) -> None:
        other = rows.version(agent, status=status)
        before = row_of(other)
        assert not mark_building(other.id, "mine")
        assert row_of(other) == before

    def test_unknown_version_is_not_claimed(self, version: AgentVersion) -> None:
        assert not mark_building(version.id + 1, "mine")

    @pytest.mark.parametrize("status", [READY, FAILED])
    def test_holder_ends_the_build_with_the_agent(
        self, agent: Agent, version: AgentVersion, manifest: Manifest, status: VersionStatus
    ) -> None:
        mark_building(version.id, "mine")
        assert finish_build(version, "mine", status, "log", manifest)
        row = row_of(version)
        assert (row["status"], row["claim"], row["build_log"]) == (status, None, "log")
        assert row["entrypoint"] == "main:handle"
        current = version.id if status is READY else None
        assert agent_state(agent) == (status.value, current)

    @pytest.mark.parametrize("status", [READY, FAILED])
    def test_superseded_build_changes_nothing(
        self, agent: Agent, version: AgentVersion, manifest: Manifest, status: VersionStatus
    ) -> None:
        mark_building(version.id, "lost")
        requeue_orphans(())
        for step in ("queued", "building"):
            if step == "building":
                mark_building(version.id, "mine")
            before = row_of(version), agent_state(agent)
            assert before[0]["status"] == step
            assert not finish_build(version, "lost", status, "log", manifest)
            assert (row_of(version), agent_state(agent)) == before

    def test_a_build_ends_once(self, version: AgentVersion, manifest: Manifest) -> None:
        mark_building(version.id, "mine")
        assert finish_build(version, "mine", READY, "log", manifest)
        before = row_of(version)
        assert not finish_build(version, "mine", FAILED, "again", None)
        assert row_of(version) == before

    def test_end_of_a_deleted_version_is_no_error(
        self, agent: Agent, version: AgentVersion, manifest: Manifest
    ) -> None:
        mark_building(version.id, "mine")
        with write_transaction():
            Agent.delete().where(Agent.id == agent.id).execute()
        assert not finish_build(version, "mine", READY, "log", manifest)

    @pytest.mark.parametrize(("status", "is_current"), [(READY, True), (FAILED, False)])
    def test_archived_agent_stays_archived(
        self,
        agent: Agent,
        version: AgentVersion,
        manifest: Manifest,
        status: VersionStatus,
        is_current: bool,
    ) -> None:
        mark_building(version.id, "mine")
        with write_transaction():
            Agent.update(status="archived").where(Agent.id == agent.id).execute()
        assert finish_build(version, "mine", status, "log", manifest)
        assert agent_state(agent) == ("archived", version.id if is_current else None)

    def test_failed_build_leaves_the_current_version(
        self, rows: Rows, agent: Agent, version: AgentVersion, manifest: Manifest
    ) -> None:
        mark_building(version.id, "a")
        finish_build(version, "a", READY, "log", manifest)
        newer = rows.version(agent, status="queued")
        mark_building(newer.id, "b")
        finish_build(newer, "b", FAILED, "log", None)
        assert agent_state(agent) == ("failed", version.id)

    def test_older_version_that_ends_last_does_not_become_current(
        self, rows: Rows, agent: Agent, version: AgentVersion, manifest: Manifest
    ) -> None:
        newer = rows.version(agent, status="queued")
        for one in (newer, version):
            mark_building(one.id, "mine")
            finish_build(one, "mine", READY, "log", manifest)
        assert agent_state(agent) == ("ready", newer.id)


@dataclass
class Disk:
    """A disk of a size that the test sets."""

    free_bytes: int = 100 * MEGABYTE

    def measure(self, _: Path) -> int:
        return self.free_bytes


@dataclass
class Workshop:
    """A real builder with all that it needs."""

    store: ArtifactStore
    sandbox: Supervisor
    builder: Builder
    reader: Reader
    rows: Rows
    disk: "Disk"

    def upload(self, agent: Agent, archive: bytes) -> AgentVersion:
        artifact = self.store.save_artifact(agent.id, [archive])
        return self.rows.version(
            agent, tarball_path=artifact.path, tarball_sha256=artifact.sha256, status="queued"
        )


@dataclass
class Machinery:
    """What takes most of a second to start, and keeps nothing of a build."""

    folder: Path
    reader: Reader
    store: ArtifactStore
    sandbox: Supervisor

    def clear(self) -> None:
        """Remove what builds left on disk: the next test's ids are the same."""
        for parent in (self.folder / "store" / "agents", self.folder / "code"):
            for folder in parent.iterdir() if parent.exists() else ():
                remove_tree(folder)


@pytest.fixture(scope="module")
def machinery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machinery]:
    folder = tmp_path_factory.mktemp("machinery")
    reader = Reader(ArchiveLimits(max_bytes=MEGABYTE, max_files=100))
    reader.start()
    store = ArtifactStore(
        folder / "store",
        folder / "code",
        max_upload_bytes=100_000,
        is_tar_gz=reader.is_tar_gz,
    )
    store.start()
    sandbox = Supervisor(folder / "scratch", folder / "code")
    sandbox.start()
    yield Machinery(folder, reader, store, sandbox)
    reader.stop()
    sandbox.stop()


@pytest.fixture
def workshop(tmp_path: Path, rows: Rows, machinery: Machinery) -> Iterator[Workshop]:
    reader, store, sandbox = machinery.reader, machinery.store, machinery.sandbox
    disk = Disk()
    builder = Builder(
        store=store,
        sandbox=sandbox,
        limits=Limits(wall_seconds=60),
        run_limits=Limits(),
        caps=dict.fromkeys(LIMIT_KEYS, 1024),
        reader=reader,
        disk=DiskReserve(tmp_path, reserve_bytes=10 * MEGABYTE, measure=disk.measure),
    )
    yield Workshop(store, sandbox, builder, reader, rows, disk)
    machinery.clear()


class TestBuilder:
    @pytest.mark.parametrize(
        ("source", "status", "text"),
        [
            (GOOD, "ready", "Build completed successfully"),
            (BROKEN, "failed", "SyntaxError"),
            ("import nothing_like_it\n", "failed", "nothing_like_it is neither in the archive"),
            ("def handel(payload): pass\n", "failed", "Functions found: handel."),
        ],
    )
    def test_the_log_says_what_came_of_it(
        self, workshop: Workshop, agent: Agent, source: str, status: str, text: str
    ) -> None:
        version = workshop.upload(agent, pack_agent(source))
        workshop.builder.build_version(version.id)
        row = row_of(version)
        assert (row["status"], row["attempts"], row["claim"]) == (status, 1, None)
        assert text in row["build_log"]
        folder = workshop.store.code_dir(agent.id, version.id)
        assert folder.is_dir() == (status == "ready")

    @pytest.mark.parametrize("has_namespaces", [True, False])
    def test_processes_are_promised_in_namespaces_alone(
        self,
        workshop: Workshop,
        agent: Agent,
        monkeypatch: pytest.MonkeyPatch,
        has_namespaces: bool,
    ) -> None:
        asked: list[Job] = []

        def run(job: Job, **_: object) -> Outcome:
            asked.append(job)
            return Outcome(StopReason.RETURNED, "", "", 1)

        ground = Ground(1, has_namespaces, landlock_abi=1, filters_calls=True)
        monkeypatch.setattr(workshop.sandbox, "_ground", ground)
        monkeypatch.setattr(workshop.sandbox, "run", run)
        manifest = MANIFEST.decode() + "subprocess: true\nlimits: {processes: 9}\n"
        version = workshop.upload(agent, pack_agent(GOOD, **{"anymind.yaml": manifest}))
        workshop.builder.build_version(version.id)
        row = row_of(version)
        assert (row["limits"], row["allows_processes"]) == ('{"processes": 9}', True)
        assert row["status"] == ("ready" if has_namespaces else "failed")
        if has_namespaces:
            assert asked[0].allows_processes
            assert (asked[0].limits.processes, asked[0].limits.wall_seconds) == (9, 60)
        else:
            assert asked == []
            assert "subprocess: true needs namespaces" in row["build_log"]

    @pytest.mark.parametrize(
        ("line", "number", "said"),
        [
            ("", None, ""),
            ("concurrency: 1\n", 1, "Of this agent 1 may run at once (concurrency)"),
            ("concurrency: 256\n", 256, "Of this agent 256 may run at once (concurrency)"),
        ],
    )
    def test_concurrency_is_written_down_and_said(
        self, workshop: Workshop, agent: Agent, line: str, number: int | None, said: str
    ) -> None:
        manifest = MANIFEST.decode() + line
        version = workshop.upload(agent, pack_agent(GOOD, **{"anymind.yaml": manifest}))
        workshop.builder.build_version(version.id)
        row = row_of(version)
        assert (row["status"], row["concurrency"]) == ("ready", number)
        assert said in row["build_log"]
        assert ("concurrency" in row["build_log"]) == bool(said)

    def test_building_twice_takes_effect_once(self, workshop: Workshop, agent: Agent) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))
        workshop.builder.build_version(version.id)
        before = row_of(version)
        workshop.builder.build_version(version.id)
        assert row_of(version) == before

    def test_damaged_artifact_fails_with_what_to_do(self, workshop: Workshop, agent: Agent) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))
        workshop.store.artifact_path(version.tarball_path).write_bytes(pack_agent(BROKEN))
        workshop.builder.build_version(version.id)
        assert row_of(version)["status"] == "failed"
        assert "upload it again" in row_of(version)["build_log"]

    def test_an_error_of_ours_leaves_the_row_to_recovery(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(workshop.store, "open_artifact", fail)
        workshop.builder.build_version(version.id)
        row = row_of(version)
        assert row["status"] == "building"
        assert row["claim"] not in workshop.builder.claims
        assert requeue_orphans(workshop.builder.claims) == 1
        monkeypatch.undo()
        workshop.builder.build_version(version.id)
        assert (row_of(version)["status"], row_of(version)["attempts"]) == ("ready", 2)

    def test_interrupted_build_is_given_back_and_counts_for_nothing(
        self, workshop: Workshop, agent: Agent
    ) -> None:
        version = workshop.upload(agent, pack_agent("import time\ntime.sleep(600)\n"))
        build = threading.Thread(target=workshop.builder.build_version, args=(version.id,))
        build.start()
        wait_for(lambda: row_of(version)["status"] == "building", "the build to begin")
        workshop.builder.interrupt()
        build.join(DEADLINE_SECONDS)
        row = row_of(version)
        assert (row["status"], row["claim"], row["attempts"]) == ("queued", None, 0)
        assert agent_state(agent) == ("building", None)

    def test_build_interrupted_while_its_archive_is_read_is_given_back(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))
        unpack = workshop.reader.unpack

        def interrupt_first(*args: Any, **kwargs: Any) -> Any:
            workshop.builder.interrupt()
            return unpack(*args, **kwargs)

        monkeypatch.setattr(workshop.reader, "unpack", interrupt_first)
        workshop.builder.build_version(version.id)
        row = row_of(version)
        assert (row["status"], row["claim"], row["attempts"]) == ("queued", None, 0)

    def test_no_build_begins_between_interrupt_and_begin(
        self, workshop: Workshop, agent: Agent
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))
        builder = workshop.builder
        for step, status in ((builder.interrupt, "queued"), (builder.begin, "ready")):
            step()
            builder.build_version(version.id)
            assert row_of(version)["status"] == status

    def test_superseded_build_that_fails_leaves_the_code_to_the_other(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent(BROKEN))
        run = workshop.sandbox.run

        def supersede(*args: Any, **kwargs: Any) -> Any:
            requeue_orphans(())
            mark_building(version.id, "other")
            return run(*args, **kwargs)

        monkeypatch.setattr(workshop.sandbox, "run", supersede)
        workshop.builder.build_version(version.id)
        assert row_of(version)["claim"] == "other"
        assert workshop.store.code_dir(agent.id, version.id).is_dir()

    def test_agent_deleted_while_it_is_built_leaves_no_code(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent("def handle(payload): ..."))
        run = workshop.sandbox.run

        def delete(*args: Any, **kwargs: Any) -> Any:
            with write_transaction():
                Agent.delete().where(Agent.id == agent.id).execute()
            return run(*args, **kwargs)

        monkeypatch.setattr(workshop.sandbox, "run", delete)
        workshop.builder.build_version(version.id)
        assert not workshop.store.code_dir(agent.id, version.id).parent.exists()

    @pytest.mark.parametrize("is_deleted", [True, False])
    def test_only_a_build_that_somebody_still_wants_crashes_aloud(
        self,
        workshop: Workshop,
        agent: Agent,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        is_deleted: bool,
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))

        def lose_the_code(*_: Any, **__: Any) -> Any:
            if is_deleted:
                with write_transaction():
                    Agent.delete().where(Agent.id == agent.id).execute()
            raise RuntimeError("the code is gone")

        monkeypatch.setattr(workshop.sandbox, "run", lose_the_code)
        with caplog.at_level("INFO"):
            workshop.builder.build_version(version.id)
        assert ("build_superseded" if is_deleted else "build_crashed") in caplog.text
        assert ("Traceback" in caplog.text) is not is_deleted


class TestRoom:
    """What cannot be unpacked for lack of room waits, and is not to blame."""

    @pytest.mark.parametrize("spare", [-1, 0, 50_000])
    def test_without_room_a_version_stays_queued_and_is_built_when_there_is_some(
        self, workshop: Workshop, agent: Agent, spare: int
    ) -> None:
        archive = pack_agent(GOOD, **{"data.txt": "x" * 100_000})
        version = workshop.upload(agent, archive)
        full, workshop.disk.free_bytes = workshop.disk.free_bytes, 10 * MEGABYTE + spare
        for _ in range(5):
            assert not workshop.builder.build_version(version.id)
            row = row_of(version)
            assert (row["status"], row["claim"], row["attempts"]) == ("queued", None, 0)
        assert not workshop.store.code_dir(agent.id, version.id).exists()
        workshop.disk.free_bytes = full
        assert workshop.builder.build_version(version.id)
        assert (row_of(version)["status"], row_of(version)["attempts"]) == ("ready", 1)

    def test_what_found_no_room_is_not_read_again_until_there_is_more(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD, **{"data.txt": "x" * 100_000}))
        workshop.disk.free_bytes = 10 * MEGABYTE + 50_000
        workshop.builder.build_version(version.id)

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("it was read again")

        with monkeypatch.context() as patched:
            patched.setattr(workshop.reader, "unpack", refuse)
            workshop.disk.free_bytes += 1000
            assert not workshop.builder.build_version(version.id)
        workshop.disk.free_bytes = 12 * MEGABYTE  # room for the largest that is allowed
        assert workshop.builder.build_version(version.id)
        assert row_of(version)["status"] == "ready"

    @pytest.mark.parametrize("spare", [50_000, 50 * MEGABYTE])
    def test_small_room_makes_no_bad_archive_wait(
        self, workshop: Workshop, agent: Agent, spare: int
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD, **{"anymind.yaml": "name: [\n"}))
        workshop.disk.free_bytes = 10 * MEGABYTE + spare
        assert workshop.builder.build_version(version.id)
        assert row_of(version)["status"] == "failed"

    def test_too_large_an_archive_fails_where_there_is_room(
        self, workshop: Workshop, agent: Agent
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD, **{"data.txt": "x" * 2 * MEGABYTE}))
        assert workshop.builder.build_version(version.id)
        row = row_of(version)
        assert row["status"] == "failed"
        assert "unpacks to more than 1 MB" in row["build_log"]

    def test_disk_that_fills_meanwhile_is_nobodys_fault(
        self, workshop: Workshop, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = workshop.upload(agent, pack_agent(GOOD))

        def fill(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(workshop.reader, "unpack", fill)
        assert not workshop.builder.build_version(version.id)
        row = row_of(version)
        assert (row["status"], row["claim"], row["attempts"]) == ("queued", None, 0)
