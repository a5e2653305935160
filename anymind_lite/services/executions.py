"""Executions: one recorded call of an agent's current version.

pending -> running -> completed | failed | cancelled. Each arrow is one guarded UPDATE; a row that
is final never changes again. An execution runs at most once.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from peewee import IntegrityError

from anymind_lite.clock import utc_now
from anymind_lite.database import PreparedSelect, write_transaction
from anymind_lite.errors import BuildError, InvalidInput, NotFound, Overloaded
from anymind_lite.models import (
    UNFINISHED,
    AgentStatus,
    AgentVersion,
    ErrorCode,
    Execution,
    ExecutionStatus,
    User,
)
from anymind_lite.reader.in_server import Reader, ReadingCancelled
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from anymind_lite.services.agents import get_agent
from anymind_lite.services.code import ensure_code
from anymind_lite.services.limits import Caps, asked_limits, execution_limits
from anymind_lite.services.pages import Page
from anymind_lite.services.slots import Reservation, SlotPool
from anymind_lite.storage import ArtifactStore

logger = logging.getLogger(__name__)

INTERRUPTED = "Interrupted by a server restart."
_INTERRUPT_SECONDS = 5.0

_EXECUTION_OF_USER = PreparedSelect(
    Execution.select().where(Execution.id == 0, Execution.user == 0)
)
_STATUS_BY_ID = PreparedSelect(Execution.select(Execution.status).where(Execution.id == 0))


class Executor:
    """Runs versions in the sandbox, a bounded number at once, and can stop each."""

    def __init__(
        self,
        *,
        slots: SlotPool,
        sandbox: Supervisor,
        store: ArtifactStore,
        limits: Limits,
        caps: Caps,
        reader: Reader,
    ) -> None:
        self.slots = slots
        self._sandbox = sandbox
        self._store = store
        self._limits = limits
        self._caps = caps
        self._reader = reader
        self._waiting: dict[int, Reservation] = {}
        self._running: set[int] = set()
        self._is_ending = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Take executions, also after an earlier `interrupt`."""
        self._is_ending = False
        self.slots.open()

    def interrupt(self) -> None:
        """Take no more executions and kill those that run: a restart interrupted them."""
        self.slots.close()
        self._is_ending = True
        deadline = time.monotonic() + _INTERRUPT_SECONDS
        with self._lock:
            running = tuple(self._running)
        for execution_id in running:
            if time.monotonic() < deadline:  # past it the sandbox itself is stuck
                self._sandbox.cancel(_job_key(execution_id))

    def run(self, execution_id: int, version: AgentVersion, payload: bytes) -> Outcome:
        """Run the version's entrypoint on a payload of JSON text. Raises BuildError."""
        folder = ensure_code(version, store=self._store, reader=self._reader)
        job = Job(
            Mode.EXECUTE,
            execution_limits(self._limits, asked_limits(version), self._caps),
            str(folder),
            version.entrypoint,
            allows_processes=version.allows_processes,
        )
        with self._interruptible(execution_id):
            outcome = self._sandbox.run(
                job,
                payload,
                key=_job_key(execution_id),
                # It may have been cancelled, be gone with its agent, or the server ends.
                is_wanted=lambda: (
                    not self._is_ending and _has_status(execution_id, ExecutionStatus.RUNNING)
                ),
            )
        return self._judged(outcome)

    @contextmanager
    def _interruptible(self, execution_id: int) -> Iterator[None]:
        with self._lock:
            self._running.add(execution_id)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(execution_id)

    def _judged(self, outcome: Outcome) -> Outcome:
        """Tell a job that ended with the server from one that the sandbox failed to run.

        Who cancels closes the row first, so what is written here of a cancelled job is not read.
        """
        ours = (StopReason.CANCELLED, StopReason.SANDBOX_FAILURE)
        if self._is_ending and outcome.reason in ours:
            return replace(outcome, reason=StopReason.SERVER_ENDED, message=INTERRUPTED)
        return outcome

    @contextmanager
    def waiting(self, execution_id: int, reservation: Reservation) -> Iterator[None]:
        """Let `stop` reach an execution that waits for its slot."""
        with self._lock:
            self._waiting[execution_id] = reservation
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[execution_id]

    def stop(self, execution_id: int) -> None:
        """End an execution wherever it is: waiting for a slot or running."""
        with self._lock:
            reservation = self._waiting.get(execution_id)
        if reservation is not None:
            reservation.abandon()
        self._sandbox.cancel(_job_key(execution_id))


def _has_status(execution_id: int, status: ExecutionStatus) -> bool:
    row = _STATUS_BY_ID.find(execution_id)
    return row is not None and row.status == status


def _job_key(execution_id: int) -> str:
    return f"execution-{execution_id}"


def execute_agent(
    user: User, agent_id: int, payload: dict[str, Any], *, executor: Executor
) -> Execution:
    """Run the agent's current version on a payload and return the finished row.

    Raises NotFound, InvalidInput (no ready version, archived), Overloaded. What goes wrong inside
    the agent is a row with status failed, not an error.
    """
    version = _runnable_version(user, agent_id)
    payload_text = _json_text(payload)
    with executor.slots.reserve() as reservation:
        # Asked once: another thread may hand the slot over while the row is written, and what the
        # row says is what must be done. (test_a_slot_that_comes_while_the_row_is_written)
        has_slot = reservation.has_slot
        execution = _insert_execution(user, version, payload_text, has_slot)
        if not has_slot and not _wait_for_slot(execution, reservation, executor):
            return get_execution(user, execution.id)
        outcome = _run(execution, version, payload_text, executor)
        finish_execution(execution.id, outcome)  # before the slot is free: a stop waits for it
    return get_execution(user, execution.id)


def _json_text(value: Any) -> str:
    """Write a payload or a result as it is kept and answered."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _runnable_version(user: User, agent_id: int) -> AgentVersion:
    agent = get_agent(user, agent_id)
    if agent.status == AgentStatus.ARCHIVED:
        raise InvalidInput("Agent is archived")
    version: AgentVersion | None = None
    if agent.current_version_id is not None:
        version = AgentVersion.get_or_none(AgentVersion.id == agent.current_version_id)
    if version is None:
        raise InvalidInput("Agent has no ready version; upload an artifact and wait for its build")
    return version


def _insert_execution(
    user: User, version: AgentVersion, payload_text: str, has_slot: bool
) -> Execution:
    now = utc_now()
    status = ExecutionStatus.RUNNING if has_slot else ExecutionStatus.PENDING
    try:
        with write_transaction():
            execution: Execution = Execution.create(
                agent=version.agent_id,
                agent_version=version.id,
                user=user.id,
                status=status,
                input_data=payload_text,
                created_at=now,
                started_at=now if has_slot else None,
                updated_at=now,
            )
    except IntegrityError as exc:  # deleted since it was looked up: a foreign key fails
        raise NotFound("Agent not found") from exc
    return execution


def _wait_for_slot(execution: Execution, reservation: Reservation, executor: Executor) -> bool:
    """Wait in line; tells whether the execution may run now."""
    try:
        with executor.waiting(execution.id, reservation):
            # Whoever cancels from here on ends the wait; whoever did before has closed the row.
            has_slot = _has_status(execution.id, ExecutionStatus.PENDING) and reservation.wait()
    except Overloaded as exc:
        _close_execution(execution.id, ErrorCode.SANDBOX_FAILURE, str(exc))
        raise
    if not has_slot:
        # Cancelled, which has closed the row already, or the server is going down.
        _close_execution(execution.id, ErrorCode.SERVER_RESTARTED, "The server is shutting down.")
        return False
    return mark_running(execution.id)


def _run(
    execution: Execution, version: AgentVersion, payload_text: str, executor: Executor
) -> Outcome:
    try:
        return executor.run(execution.id, version, payload_text.encode())
    except BuildError as exc:
        return Outcome(StopReason.SANDBOX_FAILURE, str(exc), "", 0)
    except ReadingCancelled:
        return Outcome(StopReason.SERVER_ENDED, INTERRUPTED, "", 0)
    except BaseException:
        _close_execution(execution.id, ErrorCode.SANDBOX_FAILURE, "The server failed to run it.")
        raise


def mark_running(execution_id: int) -> bool:
    """pending -> running; tells whether it did, for it may have been cancelled."""
    now = utc_now()
    with write_transaction():
        changed = (
            Execution.update(status=ExecutionStatus.RUNNING, started_at=now, updated_at=now)
            .where(Execution.id == execution_id, Execution.status == ExecutionStatus.PENDING)
            .execute()
        )
    return bool(changed == 1)


def finish_execution(execution_id: int, outcome: Outcome) -> bool:
    """running -> completed, failed or cancelled; False when it was finished otherwise before."""
    now = utc_now()
    result = outcome.details.get("result")
    with write_transaction():
        changed = (
            Execution.update(
                status=_final_status(outcome.reason),
                output_data=None if result is None else _json_text(result),
                error_message=outcome.message or None,
                error_code=_error_code(outcome.reason),
                finished_at=now,
                updated_at=now,
                **_traces(outcome),
            )
            .where(Execution.id == execution_id, Execution.status == ExecutionStatus.RUNNING)
            .execute()
        )
        if not changed:
            # A cancelled run keeps what it had printed.
            Execution.update(_traces(outcome)).where(
                Execution.id == execution_id,
                Execution.status == ExecutionStatus.CANCELLED,
                Execution.logs.is_null(),
            ).execute()
    return bool(changed == 1)


def _traces(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that tell of any run that came to a child, however it ended."""
    return {
        "logs": outcome.logs or None,
        "tier": outcome.tier,
        "layers": ",".join(outcome.layers) if outcome.tier else None,
    }


def _final_status(reason: StopReason) -> ExecutionStatus:
    if reason is StopReason.RETURNED:
        return ExecutionStatus.COMPLETED
    if reason is StopReason.CANCELLED:
        return ExecutionStatus.CANCELLED
    return ExecutionStatus.FAILED


def _error_code(reason: StopReason) -> ErrorCode | None:
    match reason:
        case StopReason.RETURNED:
            return None
        case StopReason.IMPORT_FAILED:  # the agent's code raised, only sooner
            return ErrorCode.EXCEPTION
        case StopReason.SERVER_ENDED:
            return ErrorCode.SERVER_RESTARTED
        case _:
            return ErrorCode(reason)


def _close_execution(execution_id: int, code: ErrorCode, message: str) -> bool:
    """pending or running -> cancelled or failed without an outcome; False when it was final."""
    now = utc_now()
    is_cancelled = code is ErrorCode.CANCELLED
    with write_transaction():
        changed = (
            Execution.update(
                status=ExecutionStatus.CANCELLED if is_cancelled else ExecutionStatus.FAILED,
                error_message=message,
                error_code=code,
                finished_at=now,
                updated_at=now,
            )
            .where(Execution.id == execution_id, Execution.status.in_(UNFINISHED))
            .execute()
        )
    return bool(changed == 1)


def cancel_execution(user: User, execution_id: int, *, executor: Executor) -> Execution:
    """Cancel a pending or running execution and kill its processes; a finished one is unchanged.

    The row is decided first: whatever the agent still reports loses against it.
    """
    get_execution(user, execution_id)
    _close_execution(execution_id, ErrorCode.CANCELLED, "The execution was cancelled.")
    executor.stop(execution_id)
    return get_execution(user, execution_id)


def iter_executions(
    user: User, page: Page, *, agent_version_id: int | None = None
) -> Iterator[Execution]:
    """Return the user's executions, newest first, of one version or of all.

    Which they are is settled by the call; each row is read when it is its turn, since a row may
    hold megabytes. One that was deleted meanwhile is left out.
    """
    query = Execution.select(Execution.id).where(Execution.user == user.id)
    if agent_version_id is not None:
        query = query.where(Execution.agent_version == agent_version_id)
    query = query.order_by(Execution.id.desc()).offset(page.skip).limit(page.limit)
    rows = (_EXECUTION_OF_USER.find(row_id, user.id) for (row_id,) in list(query.tuples()))
    return (row for row in rows if row is not None)


def get_execution(user: User, execution_id: int) -> Execution:
    """Return the user's execution. Raises NotFound."""
    execution: Execution | None = Execution.get_or_none(
        Execution.id == execution_id, Execution.user == user.id
    )
    if execution is None:
        raise NotFound("Execution not found")
    return execution
