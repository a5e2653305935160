"""Servers with a known fault each, which the rigs must find: a rig that passes its mutant fails.

Each mutant changes the product from outside before it starts; there is no switch in its code.
"""

import contextlib
import hashlib
import os
import secrets
import select
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
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


def unheard_failures() -> None:
    """A flush that fails passes for one that did not."""
    synchronous_normal()
    fsync = os.fsync

    def flush(fd: int) -> None:
        with contextlib.suppress(OSError):
            fsync(fd)

    _replace(os, "fsync", flush)


def unknown_full_disk() -> None:
    """A full disk is an error like any other."""
    from anymind_lite import database

    _replace(database, "is_disk_full", lambda _error: False)


def unexplained_start() -> None:
    """What stops a start is not put into words."""
    from anymind_lite.backend import Backend

    _replace(Backend, "start", Backend._start)


def unchecked_database() -> None:
    """A database is opened as it is, and nobody looks at it later."""
    from anymind_lite import backend, database

    _replace(database, "_check_health", lambda *_: None)
    _replace(backend, "search_damage", lambda _opened: lambda: None)


def guessed_database() -> None:
    """A database that is gone is begun anew, whatever lies beside it."""
    from anymind_lite import backend

    _replace(backend, "_refuse_lost_database", lambda _settings: None)


def unchecked_artifacts() -> None:
    """An artifact is read as it lies there."""
    from anymind_lite.storage import ArtifactStore

    @contextlib.contextmanager
    def open_artifact(store: Any, path: str, _sha256: str) -> Iterator[Any]:
        with store.artifact_path(path).open("rb") as file:
            yield file

    _replace(ArtifactStore, "open_artifact", open_artifact)


def trusted_queue() -> None:
    """A damaged queue file stays in use."""
    from anymind_lite import tasks

    _replace(tasks, "_is_sound", lambda _path: True)


def key_of_everybody() -> None:
    """Tokens are signed with a key that is the same on every server."""
    from anymind_lite import backend

    _replace(backend, "load_secret_key", lambda *_: "k" * 64)


def unknown_lock() -> None:
    """A database that another program locks is an error like any other."""
    from anymind_lite import database

    _replace(database, "is_locked", lambda _error: False)


def readers_that_wait() -> None:
    """Who reads the database waits for who writes it, as without a write-ahead log."""
    from anymind_lite import database

    database._PRAGMAS["journal_mode"] = "delete"


def endless_attempts() -> None:
    """A build may kill the server as often as it likes."""
    from anymind_lite.services import recovery

    _replace(recovery, "MAX_ATTEMPTS", 10**6)


def process_left_behind() -> None:
    """A process of the server's lives on without it."""
    nowhere = subprocess.DEVNULL
    subprocess.Popen(["sleep", "600"], stdin=nowhere, stdout=nowhere, stderr=nowhere)


def no_instance_lock() -> None:
    """Nobody notices who else uses the data folder."""
    from anymind_lite.backend import InstanceLock

    def take(lock: Any) -> Any:
        lock._fd = os.open(os.devnull, os.O_RDONLY)
        return lock

    _replace(InstanceLock, "__enter__", take)


def unexplained_port() -> None:
    """A port that is taken is not put into words."""
    from anymind_lite.cli import _http_server

    _replace(
        _http_server, "_bind", lambda host, port: socket.create_server((host, port), backlog=1)
    )


def nobody_gives_way() -> None:
    """Where all connections are taken, who comes next waits."""
    from anymind_lite.cli._http_connections import Server

    _replace(Server, "_make_room", lambda _server: False)


def one_at_a_time() -> None:
    """Whoever has begun a request is waited for until all of it is there."""
    from anymind_lite.cli._http_connections import Connection

    read = Connection.handle_read

    def read_all(connection: Any) -> None:
        read(connection)
        while connection.request is not None and connection.connected:
            select.select([connection.socket], [], [])
            read(connection)

    _replace(Connection, "handle_read", read_all)


def killed_with_its_client() -> None:
    """A client that goes away takes its execution along."""
    from waitress.adjustments import Adjustments

    from anymind_lite.cli._http_connections import Connection
    from anymind_lite.services.executor import Executor

    executors: list[Any] = []
    begin, close = Executor.begin, Connection.handle_close

    def note(executor: Any) -> None:
        executors.append(executor)
        begin(executor)

    def close_and_kill(connection: Any) -> None:
        if connection.requests:
            for execution_id in tuple(executors[0].held):
                executors[0].cancel(execution_id)
        close(connection)

    # waitress listens no more to who is being served, unless another request may come.
    _replace(Adjustments, "channel_request_lookahead", 1)
    _replace(Executor, "begin", note)
    _replace(Connection, "handle_close", close_and_kill)


def lists_by_time() -> None:
    """Lists go by when things were made, which no index has."""
    from anymind_lite.models import Execution

    _replace(Execution.id, "desc", Execution.created_at.desc)


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
        unheard_failures,
        unknown_full_disk,
        unexplained_start,
        unchecked_database,
        guessed_database,
        unchecked_artifacts,
        trusted_queue,
        key_of_everybody,
        unknown_lock,
        readers_that_wait,
        endless_attempts,
        process_left_behind,
        no_instance_lock,
        unexplained_port,
        nobody_gives_way,
        one_at_a_time,
        killed_with_its_client,
        lists_by_time,
    )
}
