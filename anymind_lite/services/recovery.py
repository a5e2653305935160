"""Recovery: what a dead server left half-done is made whole, at start and every few seconds after.

No clock decides what is alive. At start nothing is: whatever was running belonged to the server
that is gone. Later, a build is alive when this process holds its claim.
"""

import logging
from collections.abc import Container

from peewee import SQL

from anymind_lite.clock import utc_now
from anymind_lite.database import database, write_transaction
from anymind_lite.models import (
    AgentVersion,
    ErrorCode,
    Execution,
    ExecutionStatus,
    VersionStatus,
)
from anymind_lite.services.builds import MAX_ATTEMPTS, refresh_agent
from anymind_lite.services.executions import close_execution
from anymind_lite.services.executor import INTERRUPTED, has_status
from anymind_lite.services.idempotency import forget
from anymind_lite.storage import ArtifactStore
from anymind_lite.tasks import BuildQueue

logger = logging.getLogger(__name__)

# As the partial indexes of the unfinished say it: SQLite takes them for literals alone, and would
# else read the whole table (SQLite manual, "Partial Indexes").
_IS_UNFINISHED_EXECUTION = SQL("status IN ('pending', 'running')")
_IS_UNFINISHED_VERSION = SQL("status IN ('queued', 'building')")
# Without being told SQLite reads a whole covering index instead, which it takes for cheaper.
UNFINISHED_EXECUTIONS = (
    "SELECT id FROM execution INDEXED BY execution_unfinished "
    "WHERE status IN ('pending', 'running')"
)
# Agents that say they are being built and whose versions say otherwise. Thousands may be waiting to
# be built, so the ones in order are not touched.
AGENTS_TO_REFRESH = """
    SELECT id FROM agent WHERE status = 'building' AND (
        COALESCE((SELECT status FROM agent_version
            WHERE agent_id = agent.id ORDER BY number DESC LIMIT 1), '')
            NOT IN ('queued', 'building')
        OR current_version_id IS NOT (SELECT MAX(id) FROM agent_version
            WHERE agent_id = agent.id AND status = 'ready'))
"""

_POISON = (
    f"Build failed: the server could not finish it in {MAX_ATTEMPTS} attempts; "
    "the server's log says why."
)

_UNRECORDED = "The server could not write down that it began, or how it ended."


def recover_at_start() -> None:
    """Finish what the last server left running; call it before anything else runs."""
    now = utc_now()
    with write_transaction():
        interrupted = (
            Execution.update(
                status=ExecutionStatus.FAILED,
                error_message=INTERRUPTED,
                error_code=ErrorCode.SERVER_RESTARTED,
                finished_at=now,
                updated_at=now,
            )
            .where(_IS_UNFINISHED_EXECUTION)
            .execute()
        )
    requeued = requeue_orphans(claims=())
    with write_transaction():
        for (agent_id,) in database.execute_sql(AGENTS_TO_REFRESH).fetchall():
            refresh_agent(agent_id)
    if interrupted or requeued:
        logger.warning("event=recovered executions=%d builds=%d", interrupted, requeued)


def sweep_artifacts(store: ArtifactStore) -> None:
    """Move artifacts that no row names to the trash; call it before uploads are taken.

    A server that died between the file and its row leaves one, or in the middle of a deletion.
    Moved rather than deleted: the database may be an old copy that knows no better.
    """
    named = {path for (path,) in AgentVersion.select(AgentVersion.tarball_path).tuples()}
    try:
        count = store.sweep(named)
    except OSError:
        logger.exception("event=sweep_failed")  # a full disk, say: the next start tries again
        return
    if count:
        logger.warning("event=artifacts_moved_to_trash count=%d", count)


def requeue_orphans(claims: Container[str]) -> int:
    """building -> queued for every build that nobody holds; failed after too many attempts.

    `claims` is asked after the rows were read: a copy from before would miss the builds that began
    meanwhile, and take them from their holder.
    """
    building = list(
        AgentVersion.select().where(
            _IS_UNFINISHED_VERSION, AgentVersion.status == VersionStatus.BUILDING
        )
    )
    orphans = [version for version in building if version.claim not in claims]
    return sum(_requeue(version) for version in orphans)


def close_orphans(held: Container[int]) -> int:
    """pending or running -> failed for every execution that nobody holds.

    Its turn came and that could not be written: the disk was full, or the database locked. An end
    that could not be written is held. `held` is asked after the rows were read, as above.
    """
    unfinished = database.execute_sql(UNFINISHED_EXECUTIONS).fetchall()
    orphans = [row_id for (row_id,) in unfinished if row_id not in held]
    return sum(_close_orphan(row_id) for row_id in orphans)


def _close_orphan(execution_id: int) -> bool:
    # It may have ended, and been let go, since the rows were read: then there is nothing to tell.
    with write_transaction():
        has_begun = not has_status(execution_id, ExecutionStatus.PENDING)
        is_closed = close_execution(execution_id, ErrorCode.SANDBOX_FAILURE, _UNRECORDED)
        if not has_begun:
            forget(execution_id)  # who asks for the same again may have it run
    if is_closed:
        logger.warning("event=execution_orphaned execution_id=%d", execution_id)
    return is_closed


def _requeue(version: AgentVersion) -> bool:
    is_poison = version.attempts >= MAX_ATTEMPTS
    with write_transaction():
        changed = (
            AgentVersion.update(
                status=VersionStatus.FAILED if is_poison else VersionStatus.QUEUED,
                build_log=_POISON if is_poison else None,
                claim=None,
                updated_at=utc_now(),
            )
            .where(
                AgentVersion.id == version.id,
                AgentVersion.status == VersionStatus.BUILDING,
                AgentVersion.claim == version.claim,
            )
            .execute()
        )
        if changed:
            refresh_agent(version.agent_id)
    return bool(changed)


def hint_queued(build_queue: BuildQueue, *, most: int = 100) -> None:
    """Enqueue the oldest waiting versions if the queue knows of none: hints may be lost.

    Few at a time: whoever takes the last hint asks for more, and a start does not wait for them.
    """
    if not build_queue.is_empty():
        return
    waiting = (
        AgentVersion.select(AgentVersion.id)
        .where(_IS_UNFINISHED_VERSION, AgentVersion.status == VersionStatus.QUEUED)
        .order_by(AgentVersion.id)
        .limit(most)
    )
    for version in list(waiting):
        build_queue.enqueue(version.id)
