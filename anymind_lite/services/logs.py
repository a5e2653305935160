"""Logs: what happened to an agent or in an execution, as entries, newest first.

Nothing is stored twice: the entries are derived from the rows of versions and executions.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from peewee import SQL, Value

from anymind_lite.models import (
    AgentVersion,
    Execution,
    ExecutionStatus,
    User,
    VersionStatus,
)
from anymind_lite.services.agents import get_agent
from anymind_lite.services.executions import get_execution
from anymind_lite.services.pages import Page

BUILD, RUNTIME = "build", "runtime"


@dataclass(frozen=True)
class LogEntry:
    """One line of a log; `source` is build or runtime."""

    timestamp: datetime
    level: str
    message: str
    source: str | None
    metadata: dict[str, Any] | None


def list_agent_logs(user: User, agent_id: int, page: Page) -> list[LogEntry]:
    """Return one entry per version and per execution of an agent, the latest change first."""
    get_agent(user, agent_id)
    builds = AgentVersion.select(
        Value(BUILD).alias("source"),
        AgentVersion.id,
        AgentVersion.status,
        AgentVersion.build_log.alias("text"),
        AgentVersion.updated_at.alias("at"),
    ).where(AgentVersion.agent == agent_id)
    executions = Execution.select(
        Value(RUNTIME).alias("source"),
        Execution.id,
        Execution.status,
        Execution.error_message.alias("text"),
        Execution.updated_at.alias("at"),
    ).where(Execution.agent == agent_id)
    # In the order of the indexes: the two are merged, and nothing is sorted, however long they are.
    query = (
        builds.union_all(executions)
        .order_by(SQL("at").desc(), SQL("id").desc(), SQL("source").desc())
        .offset(page.skip)
        .limit(page.limit)
        .tuples()
    )
    return [_entry_of_row(*row) for row in list(query)]


def _entry_of_row(
    source: str, row_id: int, status: str, text: str | None, at: datetime
) -> LogEntry:
    entry = _build_entry if source == BUILD else _execution_entry
    return entry(row_id, status, text, at)


def _build_entry(version_id: int, status: str, build_log: str | None, at: datetime) -> LogEntry:
    messages = {
        VersionStatus.QUEUED: "Build queued",
        VersionStatus.BUILDING: "Build started",
        VersionStatus.READY: "Build completed successfully",
        VersionStatus.FAILED: _last_line(build_log) or "Build failed",
    }
    level = "ERROR" if status == VersionStatus.FAILED else "INFO"
    metadata = {"version_id": version_id, "status": status}
    return LogEntry(at, level, messages[VersionStatus(status)], BUILD, metadata)


def _last_line(build_log: str | None) -> str:
    """Return the last line of a build log without its time."""
    if not build_log:
        return ""
    line = build_log.splitlines()[-1]
    return line.partition("] ")[2] if line.startswith("[") else line


def _execution_entry(execution_id: int, status: str, error: str | None, at: datetime) -> LogEntry:
    outcome = {
        ExecutionStatus.PENDING: "is waiting for a free slot",
        ExecutionStatus.RUNNING: "started",
        ExecutionStatus.COMPLETED: "completed successfully",
        ExecutionStatus.FAILED: f"failed: {error}" if error else "failed",
        ExecutionStatus.CANCELLED: "was cancelled",
    }[ExecutionStatus(status)]
    levels = {ExecutionStatus.FAILED: "ERROR", ExecutionStatus.CANCELLED: "WARNING"}
    level = levels.get(ExecutionStatus(status), "INFO")
    metadata = {"execution_id": execution_id, "status": status}
    return LogEntry(at, level, f"Execution {execution_id} {outcome}", RUNTIME, metadata)


def list_execution_logs(user: User, execution_id: int, page: Page) -> list[LogEntry]:
    """Return how an execution went and what it printed, a line an entry, the latest first."""
    execution = get_execution(user, execution_id)
    # islice takes numbers of up to sys.maxsize, and `skip` alone may be that.
    start = min(page.skip, sys.maxsize - page.limit)
    return list(islice(_entries_of(execution), start, start + page.limit))


def _entries_of(execution: Execution) -> Iterator[LogEntry]:
    """Yield newest first: the end, the printed lines from the last to the first, the start."""
    metadata = {"execution_id": execution.id}
    if execution.finished_at is not None:
        yield _execution_entry(
            execution.id, execution.status, execution.error_message, execution.finished_at
        )
        for line in reversed((execution.logs or "").splitlines()):
            yield LogEntry(execution.finished_at, "INFO", line, RUNTIME, metadata)
    if execution.started_at is not None:
        yield _execution_entry(execution.id, ExecutionStatus.RUNNING, None, execution.started_at)
    else:
        yield _execution_entry(execution.id, ExecutionStatus.PENDING, None, execution.created_at)
