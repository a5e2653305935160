"""The tables as Peewee models, and the closed lists of states.

The schema itself is made by `migrations/`; `tests/unit/test_models.py` holds that the two agree.
Nothing here has behaviour: rows change in `services/`, one function per transition.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from peewee import (
    AutoField,
    BooleanField,
    Field,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from anymind_lite.clock import iso_format
from anymind_lite.database import database


class AgentStatus(StrEnum):
    """Where an agent stands; follows its newest version, except while archived."""

    DRAFT = "draft"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    ARCHIVED = "archived"


class VersionStatus(StrEnum):
    """Where the build of a version stands."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class ExecutionStatus(StrEnum):
    """Where an execution stands; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ErrorCode(StrEnum):
    """What ended an execution that did not complete; a closed list."""

    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CPU_LIMIT = "cpu_limit"
    OUTPUT_TOO_LARGE = "output_too_large"
    NOT_JSON = "not_json"
    EXCEPTION = "exception"
    EXITED = "exited"
    KILLED_BY_SIGNAL = "killed_by_signal"
    SANDBOX_FAILURE = "sandbox_failure"
    CANCELLED = "cancelled"
    SERVER_RESTARTED = "server_restarted"


UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)


class InstantField(Field):
    """An aware UTC datetime, stored as ISO 8601 text with `Z` so that text order is time order."""

    field_type = "TEXT"

    def db_value(self, value: datetime | str | None) -> str | None:
        """Write a datetime as text; text is taken as already written."""
        return iso_format(value) if isinstance(value, datetime) else value

    def python_value(self, value: str | None) -> datetime | None:
        """Read the stored text."""
        return None if value is None else datetime.fromisoformat(value)


class BaseModel(Model):
    """Ties every model to the one database."""

    id: Any = AutoField()

    class Meta:
        database = database
        legacy_table_names = False


class User(BaseModel):
    """A person who can sign in."""

    email: Any = TextField(unique=True)
    username: Any = TextField(unique=True)
    full_name: Any = TextField(null=True)
    password_hash: Any = TextField()
    is_active: Any = BooleanField(default=True)
    created_at: Any = InstantField()


class ApiKey(BaseModel):
    """A long-lived credential; only its SHA-256 is kept."""

    user: Any = ForeignKeyField(User, backref="api_keys", on_delete="CASCADE")
    name: Any = TextField()
    key_prefix: Any = TextField()
    key_hash: Any = TextField(unique=True)
    is_active: Any = BooleanField(default=True)
    last_used_at: Any = InstantField(null=True)
    created_at: Any = InstantField()


class Agent(BaseModel):
    """A named thing that a user owns and versions of which can be executed."""

    user: Any = ForeignKeyField(User, backref="agents", on_delete="CASCADE")
    name: Any = TextField()
    description: Any = TextField(null=True)
    status: Any = TextField(default=AgentStatus.DRAFT)
    current_version_id: Any = IntegerField(null=True)
    created_at: Any = InstantField()
    updated_at: Any = InstantField()


class AgentVersion(BaseModel):
    """One artifact of an agent, with the state of its build.

    `number` counts from 1 within the agent. `claim` is the token of the build that owns the row
    while it is `building`; `attempts` counts the builds that were begun. `limits` is what the
    manifest asks for, a JSON object by the keys of `manifest.LIMIT_KEYS`; null where none was read.
    `concurrency` is how many executions of the agent may run at once; null for any number.
    """

    agent: Any = ForeignKeyField(Agent, backref="versions", on_delete="CASCADE")
    number: Any = IntegerField()
    status: Any = TextField(default=VersionStatus.QUEUED)
    build_log: Any = TextField(null=True)
    tarball_path: Any = TextField(unique=True)
    tarball_sha256: Any = TextField()
    tarball_bytes: Any = IntegerField()
    entrypoint: Any = TextField(null=True)
    config: Any = TextField(null=True)
    claim: Any = TextField(null=True)
    attempts: Any = IntegerField(default=0)
    created_at: Any = InstantField()
    updated_at: Any = InstantField()
    limits: Any = TextField(null=True)
    allows_processes: Any = BooleanField(default=False)
    concurrency: Any = IntegerField(null=True)


class Execution(BaseModel):
    """One recorded call of a version; `input_data` and `output_data` are JSON text.

    `tier` and `layers`, their names with commas between, are the walls that stood around it;
    `duration_ms` is how long it took inside them, `start_ms` of that until there was a process for
    it and `wall_ms` from then on, `cpu_ms` and `max_rss_kb` what it used; `is_warm` tells whether
    its code had been imported before. All null where it never came to a child. `queue_ms` is how
    long it waited in line.
    """

    agent: Any = ForeignKeyField(Agent, backref="executions", on_delete="CASCADE")
    agent_version: Any = ForeignKeyField(AgentVersion, backref="executions", on_delete="CASCADE")
    user: Any = ForeignKeyField(User, backref="executions", on_delete="CASCADE")
    status: Any = TextField(default=ExecutionStatus.PENDING)
    input_data: Any = TextField()
    output_data: Any = TextField(null=True)
    error_message: Any = TextField(null=True)
    logs: Any = TextField(null=True)
    created_at: Any = InstantField()
    started_at: Any = InstantField(null=True)
    finished_at: Any = InstantField(null=True)
    updated_at: Any = InstantField()
    error_code: Any = TextField(null=True)
    tier: Any = TextField(null=True)
    layers: Any = TextField(null=True)
    duration_ms: Any = IntegerField(null=True)
    cpu_ms: Any = IntegerField(null=True)
    max_rss_kb: Any = IntegerField(null=True)
    is_warm: Any = BooleanField(null=True)
    queue_ms: Any = FloatField(null=True)
    start_ms: Any = FloatField(null=True)
    wall_ms: Any = FloatField(null=True)


class IdempotencyKey(BaseModel):
    """What a user asked for under a key of their choice: one of the two rows, never both.

    `fingerprint` is the SHA-256 of the request: another request under the same key is refused.
    """

    user: Any = ForeignKeyField(User, backref="idempotency_keys", on_delete="CASCADE")
    key: Any = TextField()
    fingerprint: Any = TextField()
    execution: Any = ForeignKeyField(Execution, null=True, on_delete="CASCADE")
    agent_version: Any = ForeignKeyField(AgentVersion, null=True, on_delete="CASCADE")
    created_at: Any = InstantField()


MODELS = (User, ApiKey, Agent, AgentVersion, Execution, IdempotencyKey)
