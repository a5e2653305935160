"""The named points at which a server is killed: calls of its own functions, seen from outside.

A point is passed just before or just after a call of `target`, a dotted name; with `within`, only
when the call is made inside one of that function, on the same thread. A name that the product no
longer has is an error when the driver starts, so no point goes missing quietly.
"""

from dataclasses import dataclass
from typing import Literal

_P = "anymind_lite"
_STORE = f"{_P}.storage.ArtifactStore"
_COMMIT = f"{_P}.database.ServerDatabase.commit"
_VERSIONS, _BUILDS = f"{_P}.services.versions", f"{_P}.services.builds"
_AGENTS = f"{_P}.services.agents"
_RUNS, _BACKEND = f"{_P}.services.executions", f"{_P}.backend"
_EXECUTOR = f"{_P}.services.executor.Executor"
_WRITE, _RENAME = f"{_STORE}._write", f"{_P}.storage._rename_durable"
_BUILD = f"{_BUILDS}.Builder._build"


@dataclass(frozen=True)
class Point:
    """Just before or after the `nth` call of a function."""

    when: Literal["before", "after"]
    target: str
    within: str = ""
    nth: int = 1


UPLOAD = {
    "nothing is written": Point("before", _WRITE),
    "the file is made": Point("after", "os.open", _WRITE),
    "half of the body is written": Point("before", f"{_P}.routes._multipart._feed", _WRITE, 2),
    "the body is written": Point("before", "os.fsync", _WRITE),
    "the file is synced": Point("after", "os.fsync", _WRITE),
    "the file is found good": Point("before", _RENAME),
    "the agent's folder is made": Point("after", f"{_P}.storage.make_dir_durable", _RENAME),
    "the file is renamed": Point("before", f"{_P}.storage.fsync_dir", _RENAME),
    "the folder is synced": Point("after", f"{_P}.storage.fsync_dir", _RENAME),
    "the row is written": Point("before", _COMMIT, f"{_VERSIONS}._insert_version"),
    "the row is committed": Point("after", _COMMIT, f"{_VERSIONS}._insert_version"),
    "the hint is left": Point(
        "after", f"{_P}.tasks.BuildQueue.enqueue", _VERSIONS + ".create_version"
    ),
    "the answer is written": Point("after", f"{_P}.routes.uploads.agent_version_json"),
}

BUILD = {
    "the hint is taken": Point("before", f"{_BUILDS}.Builder.build_version"),
    "the claim is written": Point("before", _COMMIT, f"{_BUILDS}.mark_building"),
    "the claim is committed": Point("after", _COMMIT, f"{_BUILDS}.mark_building"),
    "the archive is checked": Point("before", f"{_P}.reader.in_server.Reader.unpack", _BUILD),
    "the reader unpacks": Point("after", f"{_P}.reader.in_server.Reader._send", _BUILD),
    "the code is unpacked": Point("before", f"{_STORE}.install_code", _BUILD),
    "the code is in place": Point("after", f"{_STORE}.install_code", _BUILD),
    "the entrypoint is about to be imported": Point("before", f"{_BUILDS}.Builder._validate"),
    "the entrypoint is being imported": Point(
        "after", f"{_P}.sandbox.in_server.conversation.Conversation.hand_over", _BUILD
    ),
    "the entrypoint is imported": Point("after", f"{_BUILDS}.Builder._validate"),
    "the end is written": Point("before", _COMMIT, f"{_BUILDS}.finish_build"),
    "the end is committed": Point("after", _COMMIT, f"{_BUILDS}.finish_build"),
}

EXECUTION = {
    "the row is written": Point("before", _COMMIT, f"{_RUNS}._insert_execution"),
    "the row is committed": Point("after", _COMMIT, f"{_RUNS}._insert_execution"),
    "the job is about to be handed over": Point(
        "before", f"{_P}.sandbox.in_server.supervisor.Supervisor.run", f"{_EXECUTOR}.run"
    ),
    "the agent runs": Point(
        "after",
        f"{_P}.sandbox.in_server.conversation.Conversation.hand_over",
        f"{_EXECUTOR}.run",
    ),
    "the outcome is seen": Point("after", f"{_EXECUTOR}.run"),
    "the end is written": Point("before", _COMMIT, f"{_RUNS}.finish_execution"),
    "the end is committed": Point("after", _COMMIT, f"{_RUNS}.finish_execution"),
    "the answer is written": Point("after", f"{_P}.routes.runtime.execution_json"),
}

# Of one that is answered before it has ended.
BACKGROUND = {
    "it is about to go on by itself": Point("before", f"{_EXECUTOR}.in_background"),
    "it goes on by itself": Point("after", f"{_EXECUTOR}.in_background"),
    "it is answered": Point("after", f"{_P}.routes.runtime.execution_json"),
    "its agent runs": EXECUTION["the agent runs"],
    "its end is written": EXECUTION["the end is written"],
    "its end is committed": EXECUTION["the end is committed"],
}

# With one slot, which another execution holds.
WAITING = {
    "it waits in line": Point("before", f"{_P}.services.slots.Reservation.wait"),
}

CANCEL = {
    "the cancel is written": Point("before", _COMMIT, f"{_RUNS}.cancel_execution"),
    "the cancel is committed": Point("after", _COMMIT, f"{_RUNS}.cancel_execution"),
    "the run is killed": Point("after", f"{_EXECUTOR}.cancel"),
}

DELETION = {
    "the agent is about to be closed": Point("before", _COMMIT, f"{_AGENTS}._close_agent"),
    "the agent is closed": Point("after", _COMMIT, f"{_AGENTS}._close_agent"),
    "a part of the history is gone": Point("after", _COMMIT, f"{_AGENTS}.remove_history"),
    "the deletion is written": Point("before", _COMMIT, f"{_AGENTS}._delete_rows"),
    "the deletion is committed": Point("after", _COMMIT, f"{_AGENTS}._delete_rows"),
    "a file is deleted": Point("after", "os.unlink", f"{_STORE}.remove_agent"),
    "the artifacts are deleted": Point(
        "after", f"{_P}.storage.remove_tree", f"{_STORE}.remove_agent"
    ),
    "all files are deleted": Point("after", f"{_STORE}.remove_agent"),
}

START = {
    "the data folder is made": Point("after", f"{_BACKEND}.make_dir_durable"),
    "the data folder is locked": Point("after", f"{_BACKEND}.InstanceLock.__enter__"),
    "the signing key is read": Point("after", f"{_BACKEND}.load_secret_key"),
    "the code cache is emptied": Point("after", f"{_P}.storage.remove_tree", f"{_STORE}.start", 2),
    "the store is ready": Point("after", f"{_STORE}.start"),
    "the zygote runs": Point("after", f"{_P}.sandbox.in_server.supervisor.Supervisor.start"),
    "the reader runs": Point("after", f"{_P}.reader.in_server.Reader.start"),
    "the database is open": Point("after", f"{_BACKEND}.open_database"),
    "executions are about to be closed": Point("before", _COMMIT, f"{_BACKEND}.recover_at_start"),
    "executions are closed": Point("after", _COMMIT, f"{_BACKEND}.recover_at_start"),
    "builds are about to be queued": Point("before", _COMMIT, f"{_BACKEND}.recover_at_start", 2),
    "builds are queued": Point("after", _COMMIT, f"{_BACKEND}.recover_at_start", 2),
    "all rows are mended": Point("after", f"{_BACKEND}.recover_at_start"),
    "an orphan is moved": Point("after", f"{_STORE}._move_to_trash"),
    "orphans are in the trash": Point("after", f"{_BACKEND}.sweep_artifacts"),
    "the queue is open": Point("after", f"{_P}.tasks.BuildQueue._open"),
    "build workers run": Point("after", f"{_P}.tasks.BuildQueue.start"),
    "builds are hinted": Point("after", f"{_BACKEND}.hint_queued"),
    "a timer runs": Point("after", f"{_BACKEND}._every"),
    "the backend runs": Point("after", f"{_BACKEND}.Backend.start"),
    "the port is bound": Point("after", f"{_P}.cli._http_server._bind"),
    "the server serves": Point("after", f"{_P}.cli._http_server.HttpServer.start"),
}

# Of a folder that is new.
FIRST_START = {
    "half of the signing key is written": Point("before", "os.fsync", f"{_P}.files.write_durable"),
    "the signing key has its name": Point("after", f"{_P}.files.write_durable"),
    "the database is made": Point("after", f"{_P}.database._check_health"),
    "tables are being made": Point(
        "after", f"{_P}.database.ServerDatabase.execute_sql", f"{_P}.database._migrate", 12
    ),
    "the schema is made": Point("after", f"{_P}.database._migrate"),
}

KINDS = {
    "upload": UPLOAD,
    "build": BUILD,
    "execution": EXECUTION,
    "background": BACKGROUND,
    "waiting": WAITING,
    "cancel": CANCEL,
    "deletion": DELETION,
    "start": START,
    "first start": FIRST_START,
}


def point_named(kind: str, name: str) -> Point:
    """Return a point by its kind and name."""
    return KINDS[kind][name]
