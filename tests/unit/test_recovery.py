"""What a dead server left half-done is made whole, and what lives is left alone."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.models import (
    Agent,
    AgentStatus,
    AgentVersion,
    Execution,
    ExecutionStatus,
    VersionStatus,
)
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.services.builds import MAX_ATTEMPTS, mark_building
from anymind_lite.services.executions import end_of, finish_execution
from anymind_lite.services.recovery import (
    close_orphans,
    hint_queued,
    recover_at_start,
    requeue_orphans,
    sweep_artifacts,
)
from anymind_lite.storage import ArtifactStore
from anymind_lite.tasks import BuildQueue
from tests.unit.conftest import Rows
from tests.waiting import wait_for


@pytest.fixture
def agent(rows: Rows) -> Agent:
    return rows.agent(status=AgentStatus.BUILDING)


def values_of(row: Any, *names: str) -> tuple[Any, ...]:
    again = type(row).get_by_id(row.id)
    return tuple(getattr(again, name) for name in names)


class TestExecutions:
    @pytest.mark.parametrize("status", [ExecutionStatus.PENDING, ExecutionStatus.RUNNING])
    def test_unfinished_ones_failed(self, rows: Rows, agent: Agent, status: str) -> None:
        execution = rows.execution(rows.version(agent, status="ready"), status=status)
        recover_at_start()
        assert values_of(execution, "status", "error_message", "error_code", "output_data") == (
            "failed",
            "Interrupted by a server restart.",
            "server_restarted",
            None,
        )
        (finished_at,) = values_of(execution, "finished_at")
        assert finished_at >= execution.created_at.replace(microsecond=0)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_finished_ones_stay_as_they_are(self, rows: Rows, agent: Agent, status: str) -> None:
        execution = rows.execution(
            rows.version(agent, status="ready"), status=status, error_message="before"
        )
        before = Execution.select().dicts().get()
        recover_at_start()
        assert Execution.select().dicts().get() == before
        assert before["id"] == execution.id

    @pytest.mark.parametrize("status", [ExecutionStatus.PENDING, ExecutionStatus.RUNNING])
    def test_one_that_nobody_holds_is_closed(self, rows: Rows, agent: Agent, status: str) -> None:
        version = rows.version(agent, status="ready")
        held, lost = [rows.execution(version, status=status) for _ in range(2)]
        assert close_orphans({held.id}) == 1
        assert values_of(held, "status", "finished_at") == (status, None)
        assert values_of(lost, "status", "error_code", "error_message") == (
            "failed",
            "sandbox_failure",
            "The server could not write down that it began, or how it ended.",
        )
        assert close_orphans({held.id}) == 0

    def test_one_that_begins_or_ends_while_recovery_looks_is_left_alone(
        self, rows: Rows, agent: Agent, caplog: pytest.LogCaptureFixture
    ) -> None:
        version = rows.version(agent, status="ready")
        begun, ended = [rows.execution(version, status="running") for _ in range(2)]

        class Held(set[int]):
            """What is held: one was claimed in time, the other ends once its row was read."""

            def __contains__(self, execution_id: object) -> bool:
                if execution_id == ended.id:
                    finish_execution(ended.id, end_of(Outcome(StopReason.RETURNED, "", "", 1)))
                return bool(execution_id == begun.id)

        assert close_orphans(Held()) == 0
        assert values_of(begun, "status") == ("running",)
        assert values_of(ended, "status", "error_code") == ("completed", None)
        assert "execution_orphaned" not in caplog.text


class TestBuilds:
    @pytest.mark.parametrize("attempts", range(1, MAX_ATTEMPTS))
    def test_interrupted_ones_are_queued_again(
        self, rows: Rows, agent: Agent, attempts: int
    ) -> None:
        version = rows.version(agent, status="building", claim="dead", attempts=attempts)
        recover_at_start()
        assert values_of(version, "status", "claim", "attempts", "build_log") == (
            "queued",
            None,
            attempts,
            None,
        )
        assert values_of(agent, "status") == ("building",)

    @pytest.mark.parametrize("attempts", [MAX_ATTEMPTS, MAX_ATTEMPTS + 1])
    def test_the_third_interruption_fails_it(self, rows: Rows, agent: Agent, attempts: int) -> None:
        version = rows.version(agent, status="building", claim="dead", attempts=attempts)
        recover_at_start()
        status, claim, build_log = values_of(version, "status", "claim", "build_log")
        assert (status, claim) == ("failed", None)
        assert "could not finish it in 3 attempts" in build_log
        assert values_of(agent, "status", "current_version_id") == ("failed", None)

    def test_a_row_that_lost_its_claim_is_queued_again(self, rows: Rows, agent: Agent) -> None:
        version = rows.version(agent, status="building", claim=None, attempts=1)
        assert requeue_orphans({"other"}) == 1
        assert values_of(version, "status") == ("queued",)

    @pytest.mark.parametrize("status", ["queued", "ready", "failed"])
    def test_others_stay_as_they_are(self, rows: Rows, agent: Agent, status: str) -> None:
        rows.version(agent, status=status, attempts=1, build_log="log")
        before = AgentVersion.select().dicts().get()
        recover_at_start()
        assert requeue_orphans(()) == 0
        assert AgentVersion.select().dicts().get() == before

    def test_live_claims_are_left_alone(self, rows: Rows, agent: Agent) -> None:
        live = rows.version(agent, status="building", claim="live", attempts=1)
        dead = rows.version(agent, status="building", claim="dead", attempts=1)
        assert requeue_orphans({"live"}) == 1
        assert values_of(live, "status", "claim") == ("building", "live")
        assert values_of(dead, "status", "claim") == ("queued", None)

    def test_a_build_that_begins_while_recovery_looks_is_left_alone(
        self, rows: Rows, agent: Agent
    ) -> None:
        version = rows.version(agent, status="queued")
        rows.version(agent, status="building", claim="dead", attempts=1)

        class Claims(set[str]):
            """What runs; a build begins just when recovery has read it."""

            def __iter__(self) -> Iterator[str]:
                held = list(super().__iter__())
                self._begin()
                return iter(held)

            def __contains__(self, claim: object) -> bool:
                self._begin()
                return super().__contains__(claim)

            def _begin(self) -> None:
                self.add("new")
                mark_building(version.id, "new")

        assert requeue_orphans(Claims()) == 1
        assert values_of(version, "status", "claim") == ("building", "new")


AGENTS: list[tuple[str, list[str], str, int | None]] = [
    # stored status, statuses of its versions, status after, index of the current version
    ("building", [], "draft", None),
    ("building", ["ready"], "ready", 0),
    ("building", ["failed"], "failed", None),
    ("building", ["ready", "failed"], "failed", 0),
    ("building", ["failed", "ready"], "ready", 1),
    ("building", ["ready", "queued"], "building", 0),
    ("building", ["ready", "building"], "building", 0),
    ("archived", ["ready", "building"], "archived", None),
    ("ready", ["ready"], "ready", None),
]


@pytest.mark.parametrize(("stored", "versions", "status", "current"), AGENTS)
def test_agents_follow_their_versions(
    rows: Rows, stored: str, versions: list[str], status: str, current: int | None
) -> None:
    agent = rows.agent(status=stored)
    ids = [rows.version(agent, status=one, claim="x", attempts=1).id for one in versions]
    recover_at_start()
    found, version_id = values_of(agent, "status", "current_version_id")
    assert found == status
    if current is not None:
        assert version_id == ids[current]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[BuildQueue]:
    """A queue that nobody works off."""
    queue = BuildQueue(tmp_path / "queue.sqlite3", workers=0, build=lambda _: None)
    queue.start()
    yield queue
    queue.stop()


def hints_in(queue: BuildQueue, path: Path) -> list[int]:
    """Work a queue off and return what was in it."""
    queue.stop()
    found: list[int] = []
    worked_off = BuildQueue(path / "queue.sqlite3", workers=1, build=found.append)
    worked_off.start()
    wait_for(worked_off.is_empty, "the queue to be worked off")
    worked_off.stop()
    return found


class TestHints:
    @pytest.mark.parametrize(("most", "count"), [(1000, 3), (2, 2)])
    def test_queued_versions_are_hinted_oldest_first(
        self, rows: Rows, agent: Agent, queue: BuildQueue, tmp_path: Path, most: int, count: int
    ) -> None:
        ids = [rows.version(agent, status="queued").id for _ in range(3)]
        for status in (VersionStatus.BUILDING, VersionStatus.READY, VersionStatus.FAILED):
            rows.version(agent, status=status)
        hint_queued(queue, most=most)
        assert hints_in(queue, tmp_path) == ids[:count]

    def test_a_queue_that_has_hints_gets_no_more(
        self, rows: Rows, agent: Agent, queue: BuildQueue, tmp_path: Path
    ) -> None:
        version = rows.version(agent, status="queued")
        hint_queued(queue)
        hint_queued(queue)
        assert hints_in(queue, tmp_path) == [version.id]


class TestSweep:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        store = ArtifactStore(
            tmp_path / "artifacts",
            tmp_path / "code",
            max_upload_bytes=1000,
            is_tar_gz=lambda _upload: True,
        )
        store.start()
        return store

    def test_only_what_no_row_names_goes_to_the_trash(
        self, rows: Rows, agent: Agent, store: ArtifactStore
    ) -> None:
        orphan, named = (store.save_artifact(agent.id, [text]) for text in (b"orphan", b"named"))
        alone = store.save_artifact(agent.id + 1, [b"of a deleted agent"])
        rows.version(agent, tarball_path=named.path)
        sweep_artifacts(store)
        root = store.artifact_path("")
        assert store.artifact_path(named.path).read_bytes() == b"named"
        assert sorted(path.read_bytes() for path in root.glob(".trash/*")) == [
            b"of a deleted agent",
            b"orphan",
        ]
        assert {path.name for path in root.glob("agents/*")} == {str(agent.id)}
        assert not any(store.artifact_path(one.path).exists() for one in (orphan, alone))

    def test_the_trash_is_emptied_after_a_week(
        self, rows: Rows, agent: Agent, store: ArtifactStore
    ) -> None:
        old, young = (store.save_artifact(agent.id, [text]) for text in (b"old", b"young"))
        for saved in (old, young):
            os.utime(store.artifact_path(saved.path), (0, 0))  # uploaded long ago
        sweep_artifacts(store)
        trash = store.artifact_path(".trash")
        days_ago = time.time() - 8 * 24 * 3600
        os.utime(trash / Path(old.path).name, (days_ago, days_ago))
        sweep_artifacts(store)
        assert [path.read_bytes() for path in trash.iterdir()] == [b"young"]

    def test_a_disk_that_refuses_it_stops_no_start(
        self,
        rows: Rows,
        agent: Agent,
        store: ArtifactStore,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        orphan = store.save_artifact(agent.id, [b"orphan"])

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", refuse)
            sweep_artifacts(store)
        assert "event=sweep_failed" in caplog.text
        assert store.artifact_path(orphan.path).read_bytes() == b"orphan"
