"""Agents: making, changing and deleting them, and what status their versions give them."""

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

from anymind_lite.clock import utc_now
from anymind_lite.database import PreparedSelect, write_transaction
from anymind_lite.errors import InvalidInput, NotFound
from anymind_lite.models import (
    UNFINISHED,
    Agent,
    AgentStatus,
    AgentVersion,
    Execution,
    User,
    VersionStatus,
)
from anymind_lite.services.names import checked_name
from anymind_lite.services.pages import Page
from anymind_lite.services.retention import remove_history

logger = logging.getLogger(__name__)

MAX_DESCRIPTION_CHARS = 10_000

_STATUS_BY_VERSION = {
    VersionStatus.QUEUED: AgentStatus.BUILDING,
    VersionStatus.BUILDING: AgentStatus.BUILDING,
    VersionStatus.READY: AgentStatus.READY,
    VersionStatus.FAILED: AgentStatus.FAILED,
}
_UNARCHIVE = (AgentStatus.DRAFT, AgentStatus.READY)

_AGENT_OF_USER = PreparedSelect(Agent.select().where(Agent.id == 0, Agent.user == 0))


class AgentChanges(TypedDict, total=False):
    """What PATCH may change; a key that is missing stays as it is."""

    name: str
    description: str | None
    status: str


class AgentFiles(Protocol):
    """The part of the artifact store that deleting an agent needs."""

    def remove_agent(self, agent_id: int) -> None:
        """Delete every file of an agent; raises OSError."""


def create_agent(user: User, name: str, description: str | None = None) -> Agent:
    """Make an agent without versions; names may repeat."""
    name, description = checked_name(name), _checked_description(description)
    now = utc_now()
    with write_transaction():
        return Agent.create(  # type: ignore[no-any-return]
            user=user, name=name, description=description, created_at=now, updated_at=now
        )


def list_agents(user: User, page: Page) -> list[Agent]:
    """Return a user's agents, newest first."""
    rows = Agent.select().where(Agent.user == user).order_by(Agent.id.desc())
    return list(rows.offset(page.skip).limit(page.limit))


def get_agent(user: User, agent_id: int) -> Agent:
    """Return an agent of this user; raises NotFound."""
    agent: Agent | None = _AGENT_OF_USER.find(agent_id, user.id)
    if agent is None:
        raise NotFound("Agent not found")
    return agent


def update_agent(user: User, agent_id: int, changes: AgentChanges) -> Agent:
    """Change what is given; raises NotFound and InvalidInput.

    `archived` archives. `draft` and `ready` end that, and the versions decide which it becomes;
    on an agent that is not archived they change nothing, so a client may send back what it read.
    """
    values = _checked_changes(changes)
    with write_transaction():
        agent = get_agent(user, agent_id)
        if not values:
            return agent
        if values.get("status") in _UNARCHIVE:
            values["status"] = derive_status(agent_id)
        values["updated_at"] = utc_now()
        Agent.update(values).where(Agent.id == agent_id, Agent.user == user).execute()
        return get_agent(user, agent_id)


def delete_agent(
    user: User,
    agent_id: int,
    *,
    kill_executions: Callable[[int], None],
    store: AgentFiles,
) -> None:
    """Delete an agent, its versions, executions and files; raises NotFound.

    `kill_executions` ends all executions of an agent, by its id, at once. Rows go before what they
    stand for: nothing can begin to run without its row, so what runs then is all there is to end.
    Files go last: a row without its file would be a broken promise, a file without a row is only
    an orphan.
    """
    get_agent(user, agent_id)
    if _has_history(agent_id):
        _close_agent(user, agent_id)
        kill_executions(agent_id)
        remove_history(agent_id)
    _delete_rows(user, agent_id)
    kill_executions(agent_id)
    try:
        store.remove_agent(agent_id)
    except OSError:
        logger.exception("event=agent_files_left agent_id=%d", agent_id)


def _delete_rows(user: User, agent_id: int) -> None:
    """Delete an agent with all rows that belong to it."""
    with write_transaction():
        get_agent(user, agent_id)
        Agent.delete().where(Agent.id == agent_id).execute()


def _has_history(agent_id: int) -> bool:
    finished = Execution.select(Execution.id).where(
        Execution.agent == agent_id, Execution.status.not_in(UNFINISHED)
    )
    return finished.first() is not None


def _close_agent(user: User, agent_id: int) -> None:
    """Archive an agent that is being deleted, and delete what of it has not ended.

    Its finished executions may take long to delete, and nothing new may come meanwhile. Where the
    server dies before the agent is gone, it stays archived, with what is left of its history.
    """
    with write_transaction():
        get_agent(user, agent_id)
        Agent.update(status=AgentStatus.ARCHIVED, updated_at=utc_now()).where(
            Agent.id == agent_id
        ).execute()
        Execution.delete().where(
            Execution.agent == agent_id, Execution.status.in_(UNFINISHED)
        ).execute()


def derive_status(agent_id: int) -> AgentStatus:
    """Return the status that the newest version gives to an agent that is not archived.

    Call it in the transaction that writes the answer.
    """
    newest = (
        AgentVersion.select(AgentVersion.status)
        .where(AgentVersion.agent == agent_id)
        .order_by(AgentVersion.number.desc())
        .first()
    )
    return AgentStatus.DRAFT if newest is None else _STATUS_BY_VERSION[newest.status]


def _checked_changes(changes: AgentChanges) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "name" in changes:
        values["name"] = checked_name(changes["name"])
    if "description" in changes:
        values["description"] = _checked_description(changes["description"])
    if "status" in changes:
        values["status"] = _checked_status(changes["status"])
    return values


def _checked_description(description: str | None) -> str | None:
    if description is not None and len(description) > MAX_DESCRIPTION_CHARS:
        raise InvalidInput(f"description must have at most {MAX_DESCRIPTION_CHARS} characters")
    return description


def _checked_status(status: str) -> AgentStatus:
    if status not in (AgentStatus.ARCHIVED, *_UNARCHIVE):
        raise InvalidInput(
            "status can be set to archived, or to draft or ready to end that; "
            "the server sets every other"
        )
    return AgentStatus(status)
