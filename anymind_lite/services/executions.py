"""Executions: one recorded call of an agent's current version.

pending -> running -> completed | failed | cancelled. Each arrow is one guarded UPDATE; a row that
is final never changes again. An execution runs at most once. An end that the database does not
take, as another program locks it or its disk is full, is kept in memory and written when it does.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from peewee import DatabaseError, IntegrityError

from anymind_lite.clock import utc_now
from anymind_lite.database import (
    PreparedSelect,
    PreparedWrite,
    blank,
    blanks,
    is_locked,
    row_of,
    write_transaction,
)
from anymind_lite.errors import (
    BuildError,
    DatabaseDamaged,
    EndNotWritten,
    InvalidInput,
    NotFound,
    Overloaded,
)
from anymind_lite.models import (
    UNFINISHED,
    Agent,
    AgentStatus,
    AgentVersion,
    ErrorCode,
    Execution,
    ExecutionStatus,
    User,
)
from anymind_lite.reader.in_server import ReadingCancelled
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.services.agents import get_agent
from anymind_lite.services.executor import INTERRUPTED, End, Executor, Place, has_status
from anymind_lite.services.idempotency import (
    KeyedRequest,
    Made,
    find_execution,
    forget,
    keyed_request,
    remember,
)
from anymind_lite.services.pages import Page

logger = logging.getLogger(__name__)

_EXECUTION_OF_USER = PreparedSelect(
    Execution.select().where(Execution.id == 0, Execution.user == 0)
)
# What a run needs of a version, and not its build log; and where its agent stands.
_CURRENT_VERSION = PreparedSelect(
    AgentVersion.select(
        AgentVersion.id,
        AgentVersion.agent,
        AgentVersion.entrypoint,
        AgentVersion.tarball_path,
        AgentVersion.tarball_sha256,
        AgentVersion.limits,
        AgentVersion.allows_processes,
        AgentVersion.concurrency,
        Agent.status.alias("agent_status"),
    )
    .join(Agent, on=(Agent.current_version_id == AgentVersion.id))
    .where(Agent.id == 0, Agent.user == 0)
)

# What the row of an execution tells of its beginning, of any run that came to an end, and of one
# that came to a child.
_BEGINNING = (
    Execution.agent,
    Execution.agent_version,
    Execution.user,
    Execution.status,
    Execution.input_data,
    Execution.created_at,
    Execution.started_at,
    Execution.queue_ms,
    Execution.updated_at,
)
_VERDICT = (
    Execution.status,
    Execution.output_data,
    Execution.error_message,
    Execution.error_code,
    Execution.finished_at,
    Execution.updated_at,
)
_TRACES = (
    Execution.logs,
    Execution.tier,
    Execution.layers,
    Execution.duration_ms,
    Execution.cpu_ms,
    Execution.max_rss_kb,
    Execution.is_warm,
    Execution.start_ms,
    Execution.wall_ms,
)
_NO_TRACES = dict.fromkeys(field.name for field in _TRACES)
_INSERT = PreparedWrite(Execution.insert(blanks(*_BEGINNING)))
_FINISH = PreparedWrite(
    Execution.update(blanks(*_VERDICT, *_TRACES)).where(
        Execution.id == blank(Execution.id), Execution.status == blank(Execution.status, "old")
    )
)

# What a database raises that cannot be written now: locked, full, failing, found damaged.
_NOT_WRITTEN = (DatabaseError, DatabaseDamaged)


@dataclass(frozen=True)
class _Call:
    """What is executed: a version, the payload as JSON text, by whom, under which key."""

    user: User
    version: AgentVersion
    payload_text: str
    request: KeyedRequest | None


def execute_agent(
    user: User,
    agent_id: int,
    payload: dict[str, Any],
    *,
    executor: Executor,
    idempotency_key: str | None = None,
    patience_seconds: float | None = None,
) -> Made[Execution]:
    """Run the agent's current version on a payload and return the row.

    Without `patience_seconds` the row is finished. With it the run goes on in the background: the
    row is as it stands when the execution has ended or so much time has passed. With an
    `idempotency_key` that was used for the same before, nothing runs: the row is the earlier one.
    Raises NotFound, InvalidInput (no ready version, archived, a key that was used for something
    else), StillRunning, Overloaded, and EndNotWritten where the end is waited for. What goes wrong
    inside the agent is a row with status failed, not an error.
    """
    text = _json_text(payload)
    request = keyed_request(idempotency_key, "execute", agent_id, text)
    try:
        _replay(user, request)  # before it is asked whether the agent can still run
        call = _Call(user, _runnable_version(user, agent_id), text, request)
        if patience_seconds is None:
            return Made(_execute(call, executor))
        execution_id = _begin_in_background(call, executor)
    except _Replayed as replayed:
        return Made(replayed.execution, is_replay=True)
    executor.wait_for_end(execution_id, patience_seconds)
    return Made(get_execution(user, execution_id))


class _Replayed(Exception):
    """The execution that was asked for is an earlier one."""

    def __init__(self, execution: Execution) -> None:
        super().__init__()
        self.execution = execution


def _replay(user: User, request: KeyedRequest | None) -> None:
    """Raise _Replayed when an earlier request with this key has made an execution."""
    earlier = find_execution(user, request)
    if earlier is not None:
        raise _Replayed(earlier)


def _execute(call: _Call, executor: Executor) -> Execution:
    """Run to the end; return the row as it was written, which is read again only where need be."""
    with executor.place(call.user, call.version) as place:
        # Nobody is told before its end is written, unless the same may be asked for again.
        is_durable = call.request is not None
        row, has_slot = _begin(call, place, is_durable=is_durable)
        end = _carry_out(row.id, call, place, executor, has_slot=has_slot)
    if end is None or not has_slot:  # decided by others, or changed by `mark_running` meanwhile
        return get_execution(call.user, row.id)
    row.__data__.update(_columns_of(end))
    return row


def _begin(call: _Call, place: Place, *, is_durable: bool) -> tuple[Execution, bool]:
    """Insert the row; return it, and whether it has its slot."""
    # Asked once: another thread may hand the slot over while the row is written, and what the row
    # says is what must be done. (test_a_slot_that_comes_while_the_row_is_written)
    has_slot = place.reservation.has_slot
    row = _insert_execution(call, has_slot, claim=place.claim, is_durable=is_durable)
    return row, has_slot


def _begin_in_background(call: _Call, executor: Executor) -> int:
    with ExitStack() as stack:
        place = stack.enter_context(executor.place(call.user, call.version))
        row, has_slot = _begin(call, place, is_durable=True)
        carry_out = partial(
            _carry_out, row.id, call, place, executor, has_slot=has_slot, is_patient=True
        )
        try:
            executor.in_background(carry_out, stack.pop_all())
        except Overloaded as exc:
            _turn_away(row.id, ErrorCode.SANDBOX_FAILURE, str(exc))
            raise
    return int(row.id)


def _carry_out(
    execution_id: int,
    call: _Call,
    place: Place,
    executor: Executor,
    *,
    has_slot: bool,
    is_patient: bool = False,
) -> End | None:
    """Run an execution to its end, whichever that is; return it if it was written so.

    Raises Overloaded and EndNotWritten, neither if patient.
    """
    if not has_slot and not _wait_for_slot(execution_id, place, is_patient=is_patient):
        return None
    end = end_of(_run(execution_id, call, place, executor))
    try:
        # Before the slot is free: a stop waits for it.
        return end if finish_execution(execution_id, end) else None
    except _NOT_WRITTEN as exc:
        logger.warning("event=end_kept execution_id=%d reason=%r", execution_id, str(exc))
        executor.keep_end(execution_id, end)
        if not is_patient:
            raise EndNotWritten(execution_id) from exc
        return None


# Writes a payload or a result as it is kept and answered.
_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _runnable_version(user: User, agent_id: int) -> AgentVersion:
    version: Any = _CURRENT_VERSION.find(agent_id, user.id)
    status = version.agent_status if version is not None else get_agent(user, agent_id).status
    if status == AgentStatus.ARCHIVED:
        raise InvalidInput("Agent is archived")
    if version is None:
        raise InvalidInput("Agent has no ready version; upload an artifact and wait for its build")
    return cast(AgentVersion, version)


def _insert_execution(
    call: _Call, has_slot: bool, *, claim: Callable[[int], None], is_durable: bool
) -> Execution:
    """Write the row and return it, claimed before anybody else can see it."""
    now = utc_now()
    columns = {
        "agent": call.version.agent_id,
        "agent_version": call.version.id,
        "user": call.user.id,
        "status": ExecutionStatus.RUNNING if has_slot else ExecutionStatus.PENDING,
        "input_data": call.payload_text,
        "created_at": now,
        "started_at": now if has_slot else None,
        "queue_ms": 0.0 if has_slot else None,
        "updated_at": now,
    }
    try:
        with write_transaction(is_durable=is_durable):
            _replay(call.user, call.request)  # the same may have been asked for twice at once
            execution_id = int(_INSERT.run(**columns).lastrowid)
            remember(call.user, call.request, execution_id=execution_id)
            claim(execution_id)
    except IntegrityError as exc:  # deleted since it was looked up: a foreign key fails
        raise NotFound("Agent not found") from exc
    row: Execution = row_of(Execution, {"id": execution_id, **columns})
    return row


def _wait_for_slot(execution_id: int, place: Place, *, is_patient: bool) -> bool:
    """Wait in line; tells whether the execution may run now. Raises Overloaded, not if patient."""
    try:
        # Whoever cancels from here on ends the wait; whoever did before has closed the row.
        has_slot = has_status(execution_id, ExecutionStatus.PENDING) and place.reservation.wait(
            is_limited=not is_patient
        )
    except Overloaded as exc:
        _turn_away(execution_id, ErrorCode.SANDBOX_FAILURE, str(exc))
        raise
    if not has_slot:
        # Cancelled, which has closed the row already, or the server is going down.
        _turn_away(execution_id, ErrorCode.SERVER_RESTARTED, "The server is shutting down.")
        return False
    return mark_running(execution_id, queue_ms=place.age_ms)


def _run(execution_id: int, call: _Call, place: Place, executor: Executor) -> Outcome:
    try:
        return executor.run(place, call.version, call.payload_text.encode())
    except BuildError as exc:
        return Outcome(StopReason.SANDBOX_FAILURE, str(exc), "", 0)
    except ReadingCancelled:
        return Outcome(StopReason.SERVER_ENDED, INTERRUPTED, "", 0)
    except BaseException:
        close_execution(execution_id, ErrorCode.SANDBOX_FAILURE, "The server failed to run it.")
        raise


def mark_running(execution_id: int, *, queue_ms: float | None = None) -> bool:
    """pending -> running; tells whether it did, for it may have been cancelled.

    Not durable: after a power cut recovery closes what is pending as it closes what is running.
    """
    now = utc_now()
    with write_transaction(is_durable=False):
        changed = (
            Execution.update(
                status=ExecutionStatus.RUNNING,
                started_at=now,
                updated_at=now,
                queue_ms=queue_ms,
            )
            .where(Execution.id == execution_id, Execution.status == ExecutionStatus.PENDING)
            .execute()
        )
    return bool(changed == 1)


def finish_execution(execution_id: int, end: End) -> bool:
    """running -> completed, failed or cancelled; False when it was finished otherwise before."""
    with write_transaction():
        columns = _columns_of(end)
        changed = _FINISH.run(id=execution_id, old=ExecutionStatus.RUNNING, **columns).rowcount
        if not changed:
            # A cancelled run keeps what it had printed, and what it used.
            Execution.update(end.traces).where(
                Execution.id == execution_id,
                Execution.status == ExecutionStatus.CANCELLED,
                Execution.tier.is_null(),
            ).execute()
    return bool(changed == 1)


def _columns_of(end: End) -> dict[str, Any]:
    return {**_NO_TRACES, **end.traces, **end.verdict}


def write_kept_ends(executor: Executor) -> None:
    """Write the ends that the database did not take before, as far as it takes them now.

    One that was cancelled meanwhile stays so, and that of a deleted agent finds no row.
    """
    for execution_id, end in executor.kept_ends():
        try:
            finish_execution(execution_id, end)
        except _NOT_WRITTEN as exc:
            if is_locked(exc):
                return  # every try waits for the other program, and others wait for the try
        else:
            executor.release_end(execution_id)
            logger.info("event=kept_end_written execution_id=%d", execution_id)


def end_of(outcome: Outcome) -> End:
    """Return what the row of an execution tells of an outcome that came just now."""
    now = utc_now()
    result = outcome.details.get("result")
    verdict = {
        "status": _final_status(outcome.reason),
        "output_data": None if result is None else _json_text(result),
        "error_message": outcome.message or None,
        "error_code": _error_code(outcome.reason),
        "finished_at": now,
        "updated_at": now,
    }
    return End(verdict, _traces(outcome))


def _traces(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that tell of any run that came to a child, however it ended."""
    if outcome.tier is None:
        return {"logs": outcome.logs or None}
    return {
        "logs": outcome.logs or None,
        "tier": outcome.tier,
        "layers": ",".join(outcome.layers),
        "duration_ms": outcome.duration_ms,
        "cpu_ms": outcome.cpu_ms,
        "max_rss_kb": outcome.max_rss_kb,
        "is_warm": outcome.is_warm,
        "start_ms": outcome.start_ms,
        "wall_ms": outcome.wall_ms,
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
        case StopReason.UNFIT:  # said of templates, not of executions
            return ErrorCode.SANDBOX_FAILURE
        case _:
            return ErrorCode(reason)


def close_execution(execution_id: int, code: ErrorCode, message: str) -> bool:
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


def _turn_away(execution_id: int, code: ErrorCode, message: str) -> None:
    """Close an execution that never began; who asks for the same again may have it run."""
    with write_transaction():
        if close_execution(execution_id, code, message):
            forget(execution_id)


def cancel_execution(user: User, execution_id: int, *, executor: Executor) -> Execution:
    """Cancel a pending or running execution; a finished one is unchanged.

    The row is decided first: whatever the agent still reports loses against it.
    """
    get_execution(user, execution_id)
    close_execution(execution_id, ErrorCode.CANCELLED, "The execution was cancelled.")
    executor.cancel(execution_id)
    return get_execution(user, execution_id)


@dataclass(frozen=True)
class ExecutionFilter:
    """Which executions to list; None is any. `before_id` goes on where another list ended."""

    agent_id: int | None = None
    agent_version_id: int | None = None
    status: ExecutionStatus | None = None
    before_id: int | None = None


_ANY = ExecutionFilter()


def iter_executions(user: User, page: Page, wanted: ExecutionFilter = _ANY) -> Iterator[Execution]:
    """Return the user's executions, newest first.

    Which they are is settled by the call; each row is read when it is its turn, since a row may
    hold megabytes. One that was deleted meanwhile is left out.
    """
    query = Execution.select(Execution.id).where(Execution.user == user.id)
    if wanted.agent_id is not None:
        query = query.where(Execution.agent == wanted.agent_id)
    if wanted.agent_version_id is not None:
        query = query.where(Execution.agent_version == wanted.agent_version_id)
    if wanted.status is not None:
        query = query.where(Execution.status == wanted.status)
    if wanted.before_id is not None:
        query = query.where(Execution.id < wanted.before_id)
    query = query.order_by(Execution.id.desc()).offset(page.skip).limit(page.limit)
    rows = (_EXECUTION_OF_USER.find(row_id, user.id) for (row_id,) in list(query.tuples()))
    return (row for row in rows if row is not None)


def poll_execution(
    user: User, execution_id: int, wait_seconds: float, *, executor: Executor
) -> tuple[Execution, bool]:
    """Return the user's execution when it has ended, or as it stands after so long.

    Holds no slot. The flag is False when it was not waited for, as too many wait already. Raises
    NotFound.
    """
    row = get_execution(user, execution_id)
    if not wait_seconds or row.status not in UNFINISHED:
        return row, True
    has_waited = executor.poll(user.id, execution_id, wait_seconds)
    return get_execution(user, execution_id), has_waited


def get_execution(user: User, execution_id: int) -> Execution:
    """Return the user's execution. Raises NotFound."""
    execution: Execution | None = _EXECUTION_OF_USER.find(execution_id, user.id)
    if execution is None:
        raise NotFound("Execution not found")
    return execution
