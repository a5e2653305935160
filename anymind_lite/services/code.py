"""The unpacked code of versions: made from the artifact when it is not there."""

from pathlib import Path

from anymind_lite.archive import ArchiveLimits, find_root, unpack_archive
from anymind_lite.models import AgentVersion
from anymind_lite.storage import ArtifactStore


def ensure_code(version: AgentVersion, *, store: ArtifactStore, limits: ArchiveLimits) -> Path:
    """Return the agent's root folder of a version, unpacking its artifact when needed.

    The artifact's SHA-256 is checked before it is read. Raises BuildError when it is missing,
    damaged or not acceptable.
    """
    folder = store.code_dir(version.agent_id, version.id)
    if folder.is_dir():
        return folder
    store.verify_artifact(version.tarball_path, version.tarball_sha256)

    def unpack(into: Path) -> str:
        files = unpack_archive(store.artifact_path(version.tarball_path), into, limits)
        return find_root(files)

    return store.install_code(version.agent_id, version.id, unpack)


def list_files(folder: Path) -> list[str]:
    """Return the names of all files below a folder, POSIX style, sorted."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
