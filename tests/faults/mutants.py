"""Servers with a known fault each, which the rigs must find: a rig that passes its mutant fails.

Each mutant changes the product from outside before it starts; there is no switch in its code.
"""

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def _replace(owner: object, name: str, value: object) -> None:
    """Set a name that must be there."""
    assert hasattr(owner, name), name
    setattr(owner, name, value)


def no_recovery() -> None:
    """What a dead server left running stays as it is, at start and later."""
    from anymind_lite import backend

    for name in ("recover_at_start", "close_orphans", "requeue_orphans"):
        _replace(backend, name, lambda *_: None)


def no_hints() -> None:
    """What is in the rows but not in the queue is never built."""
    from anymind_lite import backend

    _replace(backend, "hint_queued", lambda _queue: None)


def no_sweep() -> None:
    """Artifacts without a row stay for ever."""
    from anymind_lite import backend

    _replace(backend, "sweep_artifacts", lambda _store: None)


def kept_cache() -> None:
    """What a dead server unpacked is used again."""
    from anymind_lite import storage
    from anymind_lite.files import remove_tree

    def remove_unless_code(path: Path) -> None:
        if path.name != "code":
            remove_tree(path)

    _replace(storage, "remove_tree", remove_unless_code)


def row_before_file() -> None:
    """The version's row is committed before its artifact is written."""
    from anymind_lite.services import versions
    from anymind_lite.storage import ArtifactStore, SavedArtifact

    insert = versions._insert_version

    def save(store: Any, agent_id: int, chunks: Iterable[bytes]) -> SavedArtifact:
        content = b"".join(chunks)
        path = f"agents/{agent_id}/artifacts/agent_{agent_id}_{secrets.token_hex(6)}.tar.gz"
        saved = SavedArtifact(path, hashlib.sha256(content).hexdigest(), len(content))
        store.unwritten = content
        return saved

    def insert_then_write(user: Any, agent_id: int, artifact: SavedArtifact, request: Any) -> Any:
        version = insert(user, agent_id, artifact, request)
        store = the_store[0]
        target = store.artifact_path(artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        ArtifactStore._write(store, target, [store.unwritten])
        return version

    the_store: list[Any] = []
    start = ArtifactStore.start

    def note(store: Any) -> None:
        the_store.append(store)
        start(store)

    _replace(ArtifactStore, "start", note)
    _replace(ArtifactStore, "save_artifact", save)
    _replace(versions, "_insert_version", insert_then_write)


def unguarded_finish() -> None:
    """The end of an execution overwrites whatever was decided before."""
    from anymind_lite.database import write_transaction
    from anymind_lite.models import Execution, ExecutionStatus
    from anymind_lite.services import executions

    finish = executions.finish_execution

    def overwrite(execution_id: int, end: Any) -> bool:
        time.sleep(0.05)  # enough for a cancel to be decided and answered
        with write_transaction():
            Execution.update(status=ExecutionStatus.RUNNING).where(
                Execution.id == execution_id
            ).execute()
        return finish(execution_id, end)

    _replace(executions, "finish_execution", overwrite)


def forgotten_ends() -> None:
    """An end that the database does not take is thrown away."""
    from anymind_lite.services.executor import Executor

    _replace(Executor, "keep_end", lambda *_: None)


def no_file_sync() -> None:
    """Artifacts are not flushed to the disk."""
    fsync = os.fsync

    def skip_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            fsync(fd)

    _replace(os, "fsync", skip_files)


def no_folder_sync() -> None:
    """New names are not flushed to the disk."""
    from anymind_lite import files, storage

    for module in (files, storage):
        _replace(module, "fsync_dir", lambda _path: None)


def synchronous_normal() -> None:
    """SQLite flushes its log at checkpoints alone."""
    from anymind_lite import database

    database._PRAGMAS["synchronous"] = "normal"


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        no_recovery,
        no_hints,
        no_sweep,
        kept_cache,
        row_before_file,
        unguarded_finish,
        forgotten_ends,
        no_file_sync,
        no_folder_sync,
        synchronous_normal,
    )
}
