"""Versions: uploading an artifact makes one, and the artifact can be downloaded again."""

from collections.abc import Iterable
from pathlib import Path

from peewee import fn

from anymind_lite.clock import utc_now
from anymind_lite.database import write_transaction
from anymind_lite.errors import InvalidInput, NotFound
from anymind_lite.models import Agent, AgentStatus, AgentVersion, User, VersionStatus
from anymind_lite.services.agents import get_agent
from anymind_lite.services.idempotency import (
    KeyedRequest,
    Made,
    find_version,
    is_known,
    keyed_request,
    remember,
)
from anymind_lite.services.pages import Page
from anymind_lite.storage import ArtifactStore, SavedArtifact
from anymind_lite.tasks import BuildQueue


def create_version(
    user: User,
    agent_id: int,
    *,
    filename: str,
    chunks: Iterable[bytes],
    store: ArtifactStore,
    build_queue: BuildQueue,
    idempotency_key: str | None = None,
) -> Made[AgentVersion]:
    """Store an uploaded archive durably as the agent's next version and have it built.

    With an `idempotency_key` under which the same archive came before, the version is that one.
    Raises NotFound, InvalidInput (not a .tar.gz, archived agent, a key that was used for something
    else), TooLarge. When this returns the archive and the row survive a power cut.
    """
    if is_known(user, idempotency_key):
        get_agent(user, agent_id)  # what was done before is answered whatever became of the agent
    else:
        _require_open_agent(user, agent_id)
    if not filename.lower().endswith(".tar.gz"):
        raise InvalidInput("File must be a .tar.gz archive")
    try:
        artifact = store.save_artifact(agent_id, chunks)
    except FileNotFoundError:
        get_agent(user, agent_id)  # deleted during the upload, and its folder with it
        raise
    request = keyed_request(idempotency_key, "upload", agent_id, artifact.sha256)
    try:
        made = _insert_version(user, agent_id, artifact, request)
    except BaseException:
        store.discard_artifact(artifact.path)
        raise
    if made.is_replay:
        store.discard_artifact(artifact.path)
    else:
        build_queue.enqueue(made.row.id)
    return made


def _require_open_agent(user: User, agent_id: int) -> None:
    if get_agent(user, agent_id).status == AgentStatus.ARCHIVED:
        raise InvalidInput("Agent is archived; set its status to draft before uploading")


def _insert_version(
    user: User, agent_id: int, artifact: SavedArtifact, request: KeyedRequest | None
) -> Made[AgentVersion]:
    now = utc_now()
    with write_transaction():
        earlier = find_version(user, request)
        if earlier is not None:
            return Made(earlier, is_replay=True)
        _require_open_agent(user, agent_id)  # much may have happened during the upload
        newest = (
            AgentVersion.select(fn.MAX(AgentVersion.number))
            .where(AgentVersion.agent == agent_id)
            .scalar()
        )
        version: AgentVersion = AgentVersion.create(
            agent=agent_id,
            number=(newest or 0) + 1,
            status=VersionStatus.QUEUED,
            tarball_path=artifact.path,
            tarball_sha256=artifact.sha256,
            tarball_bytes=artifact.size_bytes,
            created_at=now,
            updated_at=now,
        )
        remember(user, request, agent_version_id=version.id)
        Agent.update(status=AgentStatus.BUILDING, updated_at=now).where(
            Agent.id == agent_id
        ).execute()
    return Made(version)


def list_versions(user: User, agent_id: int, page: Page) -> list[AgentVersion]:
    """Return an agent's versions, newest first."""
    get_agent(user, agent_id)
    query = (
        AgentVersion.select()
        .where(AgentVersion.agent == agent_id)
        .order_by(AgentVersion.number.desc())
        .offset(page.skip)
        .limit(page.limit)
    )
    return list(query)


def get_version(user: User, agent_id: int, version_id: int) -> AgentVersion:
    """Return one version of the user's agent. Raises NotFound."""
    get_agent(user, agent_id)
    version: AgentVersion | None = AgentVersion.get_or_none(
        AgentVersion.id == version_id, AgentVersion.agent == agent_id
    )
    if version is None:
        raise NotFound("Version not found")
    return version


def get_artifact(user: User, filepath: str, *, store: ArtifactStore) -> Path:
    """Return the file of the user's own artifact. Raises NotFound.

    `filepath` is looked up among the rows, never joined to a folder: no path can leave the store.
    """
    version = (
        AgentVersion.select(AgentVersion.tarball_path)
        .join(Agent)
        .where(AgentVersion.tarball_path == filepath, Agent.user == user.id)
        .first()
    )
    if version is None:
        raise NotFound("File not found")
    path = store.artifact_path(version.tarball_path)
    if not path.is_file():
        raise NotFound("File not found")
    return path
