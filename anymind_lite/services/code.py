"""The unpacked code of versions: made from the artifact when it is not there."""

from collections.abc import Callable
from pathlib import Path

from anymind_lite.models import AgentVersion
from anymind_lite.reader.answer import Unpacked
from anymind_lite.reader.in_server import Reader
from anymind_lite.storage import ArtifactStore


def template_name(agent_id: int, version_id: int | None = None) -> str:
    """Return by what name the sandbox keeps a version imported; without one, how all begin."""
    return f"{agent_id}/{'' if version_id is None else version_id}"


def ensure_code(
    version: AgentVersion,
    *,
    store: ArtifactStore,
    reader: Reader,
    key: str = "",
    is_wanted: Callable[[], bool] = lambda: True,
) -> Path:
    """Return the agent's root folder of a version, unpacking its artifact when needed.

    `key`, `is_wanted` and what it raises are those of `unpack_code`.
    """
    folder = store.code_dir(version.agent_id, version.id)
    if not folder.is_dir():
        unpack_code(version, store=store, reader=reader, key=key, is_wanted=is_wanted)
    return folder


def unpack_code(
    version: AgentVersion,
    *,
    store: ArtifactStore,
    reader: Reader,
    key: str = "",
    is_wanted: Callable[[], bool] = lambda: True,
    max_bytes: int | None = None,
) -> tuple[Path, Unpacked]:
    """Unpack a version's artifact; return the agent's root folder and what was found.

    The artifact's SHA-256 is checked before it is read. Code that is in place already stays: it
    came from the same bytes. `key`, `is_wanted` and `max_bytes` are those of `Reader.unpack`, as is
    what it raises; BuildError also for an artifact that is missing or damaged.
    """
    with (
        store.open_artifact(version.tarball_path, version.tarball_sha256) as artifact,
        store.fresh_code() as fresh,
    ):
        unpacked = reader.unpack(
            artifact, fresh.folder_fd, key=key, is_wanted=is_wanted, max_bytes=max_bytes
        )
        folder = store.install_code(version.agent_id, version.id, fresh, unpacked.root)
    return folder, unpacked


def is_gone(version_id: int) -> bool:
    """Tell whether a version was deleted, as it is with its agent."""
    return not AgentVersion.select().where(AgentVersion.id == version_id).exists()


def remove_if_gone(version: AgentVersion, *, store: ArtifactStore) -> None:
    """Remove what was unpacked for a version that was deleted meanwhile.

    Its agent's folders may have been removed before, and have come back with the code.
    """
    if is_gone(version.id):
        store.remove_agent(version.agent_id)
