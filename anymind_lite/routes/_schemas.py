"""The shapes of requests and answers: what is checked, what is documented, rows as JSON.

Answers are written by the `<model>_json` functions; their schemas only document them, and a test
holds that the two agree.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from anymind_lite.clock import iso_format
from anymind_lite.credentials import MAX_ID
from anymind_lite.manifest import LIMIT_KEYS
from anymind_lite.models import (
    Agent,
    AgentStatus,
    AgentVersion,
    ApiKey,
    ErrorCode,
    Execution,
    ExecutionStatus,
    User,
    VersionStatus,
)
from anymind_lite.sandbox.policy import Tier
from anymind_lite.services.accounts import (
    MAX_FULL_NAME_CHARS,
    MAX_USERNAME_CHARS,
    MIN_PASSWORD_CHARS,
)
from anymind_lite.services.agents import MAX_DESCRIPTION_CHARS
from anymind_lite.services.executions import ExecutionFilter
from anymind_lite.services.executor import MAX_WAIT_SECONDS
from anymind_lite.services.limits import asked_limits
from anymind_lite.services.logs import LogEntry
from anymind_lite.services.names import MAX_NAME_CHARS
from anymind_lite.services.pages import MAX_LIMIT, Page
from anymind_lite.services.readiness import Readiness

_INSTANT = "2026-01-31T09:30:00.250Z"
# What `checked_name` lets pass, as far as the document can say it: one line, not all blank.
_CONTROLS = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
NAME_RULES = {
    "minLength": 1,
    "maxLength": MAX_NAME_CHARS,
    "pattern": rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$",
}
# waitress moves an answer into a file when so much of it is unsent; before that it keeps in memory
# what it has sent, too. (test_long_list_is_not_kept_in_memory)
_CHUNK_BYTES = 1024 * 1024
_COMMON_MESSAGES = {"required": "is required", "null": "must not be null"}


class Shape(Schema):
    """A schema that passes over what it does not know."""

    class Meta:
        unknown = EXCLUDE


# Fields that are read: their messages follow the field's name in a sentence -----------------------


class Text(fields.String):
    """A string, of any length: the services know how long it may be."""

    default_error_messages = {  # noqa: RUF012 (marshmallow declares it so)
        **_COMMON_MESSAGES,
        "invalid": "must be a string",
        "invalid_utf8": "must be UTF-8 text",
    }


class JsonObject(fields.Dict):
    """A JSON object of any content."""

    default_error_messages = {  # noqa: RUF012
        **_COMMON_MESSAGES,
        "invalid": "must be a JSON object",
    }


class WholeNumber(fields.Integer):
    """A whole number in a query string, in plain digits, between two bounds.

    `int()` would also take "1_000", " 1" and the digits of other scripts.
    """

    default_error_messages = {  # noqa: RUF012
        "range": "must be a whole number from {least} to {most}"
    }

    def __init__(self, *, least: int, most: int, description: str, **kwargs: Any) -> None:
        metadata = {"description": description, "minimum": least, "maximum": most}
        super().__init__(metadata=metadata, **kwargs)
        self._least = least
        self._most = most

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", value) or not self._least <= int(value) <= self._most:
            raise self.make_error("range", least=self._least, most=self._most)
        return int(value)


# Fields that are shown ----------------------------------------------------------------------------


def _text(description: str, example: str | None, **kwargs: Any) -> fields.String:
    return fields.String(
        required=True, metadata={"description": description, "example": example}, **kwargs
    )


def _number(description: str, example: int | None = 1, **kwargs: Any) -> fields.Integer:
    return fields.Integer(
        required=True, metadata={"description": description, "example": example}, **kwargs
    )


def _decimal(description: str, example: float) -> fields.Float:
    return fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": f"{description}, in ms", "example": example},
    )


def _instant(description: str, **kwargs: Any) -> fields.DateTime:
    metadata = {"description": f"{description} (UTC)", "example": _INSTANT}
    return fields.DateTime(required=True, metadata=metadata, **kwargs)


def _flag(description: str, *, example: bool = True) -> fields.Boolean:
    return fields.Boolean(required=True, metadata={"description": description, "example": example})


def _one_of(
    description: str, words: type[Any], example: str | None, **kwargs: Any
) -> fields.String:
    nothing = [None] if kwargs.get("allow_none") else []
    metadata = {
        "description": description,
        "enum": [*(word.value for word in words), *nothing],
        "example": example,
    }
    return fields.String(required=True, metadata=metadata, **kwargs)


# Queries ------------------------------------------------------------------------------------------


class PageQuery(Shape):
    """The window of a list."""

    skip = WholeNumber(
        least=0, most=MAX_ID, load_default=0, description="Number of records to skip"
    )
    limit = WholeNumber(
        least=1, most=MAX_LIMIT, load_default=100, description="Most records to return"
    )


class ExecutionsQuery(PageQuery):
    """The window of a list of executions, and which of them."""

    agent_version_id = WholeNumber(
        least=0, most=MAX_ID, description="Only executions of this version"
    )
    agent_id = WholeNumber(least=0, most=MAX_ID, description="Only executions of this agent")
    status = Text(
        validate=validate.OneOf([*ExecutionStatus], error="must be one of {choices}"),
        metadata={"description": "Only executions that stand so"},
    )
    before_id = WholeNumber(
        least=0,
        most=MAX_ID,
        description="Only executions with a smaller id: to go on where the last list ended, "
        "at the same cost however far back",
    )


class PollQuery(Shape):
    """How long to wait for the end of an execution."""

    wait = WholeNumber(
        least=0,
        load_default=0,
        most=MAX_WAIT_SECONDS,
        description="Answer when the execution has ended, or after so many seconds as it stands",
    )


def page_of(query: Mapping[str, Any]) -> Page:
    """Return the window that a query asks for."""
    return Page(skip=query["skip"], limit=query["limit"])


def filter_of(query: Mapping[str, Any]) -> ExecutionFilter:
    """Return which executions a query asks for."""
    names = [field.name for field in dataclass_fields(ExecutionFilter)]
    return ExecutionFilter(**{name: query.get(name) for name in names})


# Errors -------------------------------------------------------------------------------------------


class ErrorSchema(Shape):
    """Every error of every address."""

    detail = _text("One sentence for a person", "Agent not found")


# Accounts -----------------------------------------------------------------------------------------


class RegisterRequest(Shape):
    """A new account."""

    email = Text(
        required=True, metadata={"format": "email", "maxLength": 254, "example": "user@example.com"}
    )
    username = Text(
        required=True,
        metadata={
            "description": "Without spaces; upper and lower case are the same name",
            "minLength": 1,
            "maxLength": MAX_USERNAME_CHARS,
            "example": "username",
        },
    )
    password = Text(
        required=True,
        metadata={
            "description": "At most 72 bytes in UTF-8",
            "format": "password",
            "minLength": MIN_PASSWORD_CHARS,
            "maxLength": 72,
            "example": "correct horse battery",
        },
    )
    full_name = Text(
        load_default=None,
        allow_none=True,
        metadata={"maxLength": MAX_FULL_NAME_CHARS, "example": "Full Name"},
    )


class LoginRequest(Shape):
    """Name and password."""

    username = Text(required=True, metadata={"example": "username"})
    password = Text(
        required=True, metadata={"format": "password", "example": "correct horse battery"}
    )


class TokenSchema(Shape):
    """An access token, to be sent as `Authorization: Bearer <access_token>`."""

    access_token = _text("The token, a JWT", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln")
    token_type = _text("Always `bearer`", "bearer")


class UserSchema(Shape):
    """A person who can sign in."""

    id = _number("Id of the user")
    email = _text("E-mail address", "user@example.com")
    username = _text("Name to log in with", "username")
    full_name = _text("Full name", "Full Name", allow_none=True)
    is_active = fields.Boolean(
        required=True, metadata={"description": "Whether the user may sign in", "example": True}
    )


def token_json(access_token: str) -> dict[str, Any]:
    """Return the answer to a log-in."""
    return {"access_token": access_token, "token_type": "bearer"}


def user_json(row: User) -> dict[str, Any]:
    """Return a user as the API shows it."""
    return {
        "id": row.id,
        "email": row.email,
        "username": row.username,
        "full_name": row.full_name,
        "is_active": row.is_active,
    }


# API keys -----------------------------------------------------------------------------------------


class ApiKeyCreateRequest(Shape):
    """A new API key."""

    name = Text(
        required=True,
        metadata={
            **NAME_RULES,
            "description": "What the key is for",
            "example": "My CLI Key",
        },
    )


class ApiKeyCreatedSchema(Shape):
    """An API key with the key itself, which is shown this once."""

    id = _number("Id of the key")
    key = _text("The key; it is not shown again", "anymind_abc123...")
    key_prefix = _text("Its first 12 characters", "anymind_abc1")
    name = _text("What the key is for", "My CLI Key")
    created_at = _instant("When the key was made")


class ApiKeySchema(Shape):
    """An API key as it is listed."""

    id = _number("Id of the key")
    key_prefix = _text("Its first 12 characters", "anymind_abc1")
    name = _text("What the key is for", "My CLI Key")
    is_active = fields.Boolean(
        required=True, metadata={"description": "False once it is revoked", "example": True}
    )
    last_used_at = _instant("When the key was last used", allow_none=True)
    created_at = _instant("When the key was made")


def created_api_key_json(row: ApiKey, key: str) -> dict[str, Any]:
    """Return a fresh API key with the key itself."""
    return {
        "id": row.id,
        "key": key,
        "key_prefix": row.key_prefix,
        "name": row.name,
        "created_at": iso_format(row.created_at),
    }


def api_key_json(row: ApiKey) -> dict[str, Any]:
    """Return an API key as the API lists it."""
    return {
        "id": row.id,
        "key_prefix": row.key_prefix,
        "name": row.name,
        "is_active": row.is_active,
        "last_used_at": _instant_json(row.last_used_at),
        "created_at": iso_format(row.created_at),
    }


# Agents and versions ------------------------------------------------------------------------------


class AgentCreateRequest(Shape):
    """A new agent."""

    name = Text(
        required=True,
        metadata={**NAME_RULES, "example": "my-agent"},
    )
    description = Text(
        load_default=None,
        allow_none=True,
        metadata={"maxLength": MAX_DESCRIPTION_CHARS, "example": "My AI agent"},
    )


class AgentUpdateRequest(Shape):
    """Changes to an agent; what is left out stays."""

    name = Text(metadata={**NAME_RULES, "example": "updated-name"})
    description = Text(
        allow_none=True,
        metadata={"maxLength": MAX_DESCRIPTION_CHARS, "example": "Updated description"},
    )
    status = Text(
        metadata={
            "description": "`archived` archives; `draft` or `ready` ends that, and the versions "
            "decide which it becomes. The server sets every other.",
            "enum": ["archived", "draft", "ready"],
            "example": "archived",
        }
    )


class AgentSchema(Shape):
    """A named thing that a user owns and versions of which can be executed."""

    id = _number("Id of the agent")
    name = _text("Name of the agent", "my-agent")
    description = _text("What it is for", "My AI agent", allow_none=True)
    user_id = _number("Whose it is")
    status = _one_of("Follows the newest version, except while archived", AgentStatus, "ready")
    current_version_id = _number("The version that is executed", 5, allow_none=True)
    created_at = _instant("When the agent was made")
    updated_at = _instant("When the agent last changed")


LimitsSchema = Shape.from_dict(
    {
        key: (fields.Integer if known.is_whole else fields.Float)(
            metadata={"minimum": known.least, "maximum": known.most}
        )
        for key, known in LIMIT_KEYS.items()
    },
    name="Limits",
)


class AgentVersionSchema(Shape):
    """One artifact of an agent, with the state of its build."""

    id = _number("Id of the version")
    agent_id = _number("Id of its agent")
    version = _text("Its number within the agent", "v1")
    status = _one_of("Where its build stands", VersionStatus, "queued")
    build_log = _text("What the build said", "Build completed successfully", allow_none=True)
    tarball_path = _text(
        "Where to download it: below `/api/v1/uploads/`",
        "agents/1/artifacts/agent_1_artifact.tar.gz",
        allow_none=True,
    )
    entrypoint = _text("What is called, once it is built", "agent.main:handle", allow_none=True)
    config = _text("Its anymind.yaml, once it is built", "name: my-agent", allow_none=True)
    created_at = _instant("When the artifact was uploaded")
    updated_at = _instant("When the version last changed")
    limits = fields.Nested(
        LimitsSchema,
        required=True,
        allow_none=True,
        metadata={"description": "What its anymind.yaml asks for, once it is built"},
    )
    subprocess = _flag("Whether it may start processes", example=False)
    concurrency = _number(
        "How many executions of the agent may run at once; null for any number", 2, allow_none=True
    )


def agent_json(row: Agent) -> dict[str, Any]:
    """Return an agent as the API shows it."""
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "user_id": row.user_id,
        "status": row.status,
        "current_version_id": row.current_version_id,
        "created_at": iso_format(row.created_at),
        "updated_at": iso_format(row.updated_at),
    }


def agent_version_json(row: AgentVersion) -> dict[str, Any]:
    """Return a version as the API shows it."""
    return {
        "id": row.id,
        "agent_id": row.agent_id,
        "version": f"v{row.number}",
        "status": row.status,
        "build_log": row.build_log,
        "tarball_path": row.tarball_path,
        "entrypoint": row.entrypoint,
        "config": row.config,
        "created_at": iso_format(row.created_at),
        "updated_at": iso_format(row.updated_at),
        "limits": None if row.config is None else asked_limits(row),
        "subprocess": row.allows_processes,
        "concurrency": row.concurrency,
    }


# Executions and logs ------------------------------------------------------------------------------


class ExecuteRequest(Shape):
    """A call of an agent."""

    payload = JsonObject(
        required=True,
        metadata={
            "description": "What the agent's function gets",
            "example": {"input": "Hello, world!"},
        },
    )


class ExecutionSchema(Shape):
    """One recorded call of a version."""

    id = _number("Id of the execution")
    agent_version_id = _number("Which version was called", 5)
    user_id = _number("Who called it")
    status = _one_of("Where it stands; the last three are final", ExecutionStatus, "completed")
    input_data = fields.Dict(
        required=True,
        metadata={"description": "The payload", "example": {"input": "Hello, world!"}},
    )
    output_data = fields.Dict(
        required=True,
        allow_none=True,
        metadata={
            "description": "The result, once it is completed",
            "example": {"result": "Response from agent"},
        },
    )
    error_message = _text("Why it failed, in one line", None, allow_none=True)
    logs = _text("What the agent printed", "thinking...", allow_none=True)
    created_at = _instant("When it was asked for")
    updated_at = _instant("When it last changed")
    error_code = _one_of("What ended it unless it completed", ErrorCode, None, allow_none=True)
    tier = _one_of("How strong the walls around it were", Tier, "A", allow_none=True)
    layers = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "What those walls were made of", "example": ["rlimits"]},
    )
    started_at = _instant("When it left the line", allow_none=True)
    finished_at = _instant("When it ended", allow_none=True)
    duration_ms = _number("How long it took in the sandbox", 12, allow_none=True)
    cpu_ms = _number("How much CPU time it used", 9, allow_none=True)
    max_rss_kb = _number("How much memory it had at its peak", 14200, allow_none=True)
    warm = fields.Boolean(
        required=True,
        allow_none=True,
        metadata={"description": "Whether its code had been imported before", "example": True},
    )
    queue_ms = _decimal("How long it waited in line", 0.0)
    start_ms = _decimal("How long it took until there was a process for it", 1.2)
    wall_ms = _decimal("How long that process lived", 10.8)


class LogEntrySchema(Shape):
    """One event of an agent's life."""

    timestamp = _instant("When it happened")
    level = fields.String(
        required=True,
        metadata={"enum": ["INFO", "ERROR", "WARNING", "DEBUG"], "example": "INFO"},
    )
    message = _text("What happened", "Execution 1 completed successfully")
    source = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "`build` or `runtime`", "example": "runtime"},
    )
    metadata = fields.Dict(
        required=True,
        allow_none=True,
        metadata={
            "description": "Ids and status",
            "example": {"execution_id": 1, "status": "completed"},
        },
    )


def execution_json(row: Execution) -> Iterator[str]:
    """Write an execution as the API shows it, in pieces of JSON text.

    Payload and result go out as they stand in the row. Reading and writing a megabyte of JSON again
    takes tens of megabytes, and a list may have a thousand of them.
    (test_list_takes_the_memory_of_few_rows)
    """
    known = {
        "id": row.id,
        "agent_version_id": row.agent_version_id,
        "user_id": row.user_id,
        "status": row.status,
    }
    rest = {
        "error_message": row.error_message,
        "logs": row.logs,
        "created_at": iso_format(row.created_at),
        "updated_at": iso_format(row.updated_at),
        "error_code": row.error_code,
        "tier": row.tier,
        "layers": row.layers.split(",") if row.layers else [],
        "started_at": _instant_json(row.started_at),
        "finished_at": _instant_json(row.finished_at),
        "duration_ms": row.duration_ms,
        "cpu_ms": row.cpu_ms,
        "max_rss_kb": row.max_rss_kb,
        "warm": row.is_warm,
        "queue_ms": row.queue_ms,
        "start_ms": row.start_ms,
        "wall_ms": row.wall_ms,
    }
    yield f'{_compact(known)[:-1]},"input_data":'
    yield row.input_data
    yield ',"output_data":'
    yield "null" if row.output_data is None else row.output_data
    yield f",{_compact(rest)[1:]}"


def _instant_json(instant: datetime | None) -> str | None:
    return None if instant is None else iso_format(instant)


# Kept, as `json.dumps` makes one for each call that says how.
_compact = json.JSONEncoder(separators=(",", ":")).encode


def json_array(rows: Iterable[Iterable[str]]) -> Iterator[bytes]:
    """Write an array of things that come in pieces of JSON text; UTF-8 (RFC 8259, section 8.1)."""
    waiting, separator = bytearray(), b"["
    for row in rows:
        waiting += separator
        for piece in row:
            waiting += piece.encode()
        separator = b","
        if len(waiting) >= _CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting) + (b"[]" if separator == b"[" else b"]")


def log_entry_json(entry: LogEntry) -> dict[str, Any]:
    """Return a log entry as the API shows it."""
    return {
        "timestamp": iso_format(entry.timestamp),
        "level": entry.level,
        "message": entry.message,
        "source": entry.source,
        "metadata": entry.metadata,
    }


# The server itself -----------------------------------------------------------------------------


class LayerSchema(Shape):
    """One thing that an agent is made to give up."""

    name = _text("Its name, as an execution lists it", "rlimits")
    is_on = _flag("Whether agents get it")
    promise = _text("What it keeps an agent from", "no core files; not traceable")
    is_for_processes = _flag("Whether only runs with `subprocess: true` get it", example=False)
    why_off = _text("Why it is off; empty where it is on", "")
    fix = _text("How to have it; empty where it is on", "")


class SandboxSchema(Shape):
    """What holds agents back on this machine."""

    tier = _one_of("How strong the walls are", Tier, "A")
    min_tier = _one_of("What agents need at least: `MIN_TIER`", Tier, "B")
    can_run = _flag("Whether agents may run")
    message = _text("Why agents may not run; empty where they may", "")
    layers = fields.List(fields.Nested(LayerSchema), required=True)


# Health -------------------------------------------------------------------------------------------


class HealthSchema(Shape):
    """That the server answers."""

    status = _text("Always `healthy`", "healthy")


class ReadinessState(StrEnum):
    """Whether to send requests here."""

    READY = "ready"
    NOT_READY = "not ready"
    STOPPING = "stopping"


class ReadinessChecksSchema(Shape):
    """`ok` for each part, or what is wrong with it."""

    database = _text("Whether it can be read", "ok")
    queue = _text("Whether builds are taken from it", "ok")
    sandbox = _text("Whether agents can run", "ok")
    disk = _text("Whether there is room to write", "ok")


class ReadinessSchema(Shape):
    """Whether the server can do its work now."""

    status = _one_of("Whether to send requests here", ReadinessState, "ready")
    checks = fields.Nested(ReadinessChecksSchema, required=True)


def readiness_json(found: Readiness) -> dict[str, Any]:
    """Return it as the API shows it."""
    state = ReadinessState.READY if found.is_ready else ReadinessState.NOT_READY
    return {
        "status": ReadinessState.STOPPING if found.is_stopping else state,
        "checks": dict(found.checks),
    }
