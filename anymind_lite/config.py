# ruff: noqa: RUF009 (`_setting` wraps `dataclasses.field`, which that rule lets pass)
"""Every setting: its name, kind, default and meaning, and where its value came from.

`SETTINGS` is the one list. The values, the check of `config.toml` and `.env`, the `config` command
and the test of `docs/configuration.md` all follow it. Highest first, a value comes from the command
line, the environment, `.env`, `config.toml`, or the default.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from os.path import normpath
from pathlib import Path
from typing import Any, Literal

from anymind_lite.errors import StartupError
from anymind_lite.setting_kinds import (
    MIN_SECRET_KEY_BYTES,
    Choice,
    DatabaseUrl,
    Flag,
    Folder,
    Host,
    Integer,
    Kind,
    Origins,
    RateLimit,
    RefusedError,
    Seconds,
    Secret,
    Text,
)

# Read by run.py and by the client commands, from the environment only.
OTHER_VARIABLES = ("ANYMIND_API_KEY", "ANYMIND_API_URL", "ANYMIND_NO_BOOTSTRAP")

# Whatever is larger is not a hand-written file of settings.
_MAX_FILE_BYTES = 1024 * 1024
_MAX_SHOWN_CHARACTERS = 60


class SettingsError(StartupError):
    """Settings are wrong; the text lists every wrong one with its source and what is accepted."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        super().__init__("\n  ".join([head, *self.problems]))


# The settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting as it is declared: `default` is written as in `config.toml`."""

    attribute: str
    name: str
    default: str | int | bool
    kind: Kind
    table: str
    doc: str

    @property
    def key(self) -> str:
        """The key in `config.toml`."""
        return self.name.lower()

    @property
    def default_text(self) -> str:
        """The default as a person would write it in `.env`; empty when there is none."""
        return self.default if isinstance(self.default, str) else self.kind.show(self.default)


def _setting(name: str, kind: Kind, *, default: str | int | bool, table: str, doc: str) -> Any:
    """Declare a setting; the answer is a dataclass field, `Any` as `dataclasses.field` itself."""
    declared = {"name": name, "default": default, "kind": kind, "table": table, "doc": doc}
    return field(metadata=declared, repr=not isinstance(kind, Secret))


_MAX_BYTES = 1 << 40
_MAX_MB = 1 << 20
_JSON_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Settings:
    """Every setting's value, checked; made by `load_settings`. Paths are absolute.

    A MB is 1,048,576 bytes and a KB 1,024, as the kernel's limits count.
    """

    app_name: str = _setting(
        "APP_NAME",
        Text(100),
        default="Agent Management API",
        table="app",
        doc="Name shown in the API documentation",
    )
    app_version: str = _setting(
        "APP_VERSION",
        Text(50),
        default="1.0.0",
        table="app",
        doc="Version shown in the API documentation",
    )
    debug: bool = _setting(
        "DEBUG",
        Flag(),
        default=False,
        table="app",
        doc="More detail in the server's log; answers to clients stay the same",
    )
    log_level: str = _setting(
        "LOG_LEVEL",
        Choice("DEBUG", "INFO", "WARNING", "ERROR"),
        default="INFO",
        table="app",
        doc="Lowest level that the server logs",
    )
    server_host: str = _setting(
        "SERVER_HOST",
        Host(),
        default="127.0.0.1",
        table="server",
        doc="Address to listen on; 127.0.0.1 is reached from this machine only",
    )
    server_port: int = _setting(
        "SERVER_PORT",
        Integer(0, 65535),
        default=8000,
        table="server",
        doc="TCP port to listen on; 0 takes any free one",
    )
    shutdown_grace_seconds: float = _setting(
        "SHUTDOWN_GRACE_SECONDS",
        Seconds(0, 3600),
        default=35,
        table="server",
        doc="How long a stopping server waits for running executions before it ends them",
    )
    database_path: Path = _setting(
        "DATABASE_URL",
        DatabaseUrl(),
        default="",
        table="database",
        doc="The SQLite file; unset: anymind.sqlite3 in DATA_DIR",
    )
    secret_key: str | None = _setting(
        "SECRET_KEY",
        Secret(),
        default="",
        table="security",
        doc="Key that signs log-ins; unset: made once and kept in secret.key in DATA_DIR",
    )
    algorithm: str = _setting(
        "ALGORITHM",
        Choice(*MIN_SECRET_KEY_BYTES),
        default="HS256",
        table="security",
        doc="How log-in tokens are signed; HS384 wants a key of 48 bytes, HS512 one of 64",
    )
    access_token_expire_minutes: int = _setting(
        "ACCESS_TOKEN_EXPIRE_MINUTES",
        Integer(1, 525600, "minutes"),
        default=30,
        table="security",
        doc="How long a log-in lasts",
    )
    password_hash_rounds: int = _setting(
        "PASSWORD_HASH_ROUNDS",
        Integer(4, 16),
        default=12,
        table="security",
        doc="bcrypt's cost for new passwords; each step doubles the time of a log-in",
    )
    login_rate_limit: str | None = _setting(
        "LOGIN_RATE_LIMIT",
        RateLimit(),
        default="10/minute",
        table="security",
        doc="Failed log-ins allowed to one client address",
    )
    register_rate_limit: str | None = _setting(
        "REGISTER_RATE_LIMIT",
        RateLimit(),
        default="20/hour",
        table="security",
        doc="Registrations allowed to one client address",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        Origins(),
        default="http://localhost:3000,http://localhost:8000",
        table="cors",
        doc="Web pages of other origins whose scripts may call the API",
    )
    data_dir: Path = _setting(
        "DATA_DIR",
        Folder(),
        default="./data",
        table="storage",
        doc="Folder of everything that the server writes",
    )
    storage_path: Path = _setting(
        "STORAGE_PATH",
        Folder(),
        default="",
        table="storage",
        doc="Folder of the uploaded artifacts; unset: artifacts in DATA_DIR",
    )
    upload_max_bytes: int = _setting(
        "UPLOAD_MAX_SIZE",
        Integer(1, _MAX_BYTES, "bytes"),
        default=104857600,
        table="storage",
        doc="Largest artifact that may be uploaded",
    )
    disk_reserve_mb: int = _setting(
        "DISK_RESERVE_MB",
        Integer(0, _MAX_MB, "MB"),
        default=256,
        table="storage",
        doc="Free disk below which uploads and executions are answered 507; 0 switches that off",
    )
    worker_concurrency: int = _setting(
        "WORKER_CONCURRENCY",
        Integer(1, 256),
        default=4,
        table="workers",
        doc="Executions that run at once",
    )
    execution_queue_size: int = _setting(
        "EXECUTION_QUEUE_SIZE",
        Integer(0, 1024),
        default=32,
        table="workers",
        doc="Executions that may wait for a place; further ones are answered 503",
    )
    execution_queue_timeout_seconds: float = _setting(
        "EXECUTION_QUEUE_TIMEOUT_SECONDS",
        Seconds(0, 3600),
        default=30,
        table="workers",
        doc="How long an execution waits for a place before it is answered 503",
    )
    warm_memory_mb: int = _setting(
        "WARM_MEMORY_MB",
        Integer(-1, _MAX_MB, "MB"),
        default=-1,
        table="workers",
        doc="Memory for versions that are kept imported, so that runs begin at once; 0 switches "
        "that off, -1 is an eighth of the machine's, at most 1024",
    )
    build_workers: int = _setting(
        "BUILD_WORKERS",
        Integer(1, 16),
        default=2,
        table="workers",
        doc="Builds that run at once",
    )
    min_tier: str = _setting(
        "MIN_TIER",
        Choice("A", "B", "C"),
        default="B",
        table="execution",
        doc="Weakest tier of sandbox that may run agents; on systems other than Linux set C",
    )
    execution_timeout_seconds: float = _setting(
        "EXECUTION_TIMEOUT_SECONDS",
        Seconds(0.1, 3600),
        default=30,
        table="execution",
        doc="How long an execution may take before it is ended",
    )
    build_timeout_seconds: float = _setting(
        "BUILD_TIMEOUT_SECONDS",
        Seconds(0.1, 3600),
        default=30,
        table="execution",
        doc="How long a build may take before it fails",
    )
    execution_memory_mb: int = _setting(
        "EXECUTION_MEMORY_MB",
        Integer(16, _MAX_MB, "MB"),
        default=256,
        table="execution",
        doc="Memory for an execution's data (the kernel's data segment)",
    )
    execution_address_space_mb: int = _setting(
        "EXECUTION_ADDRESS_SPACE_MB",
        Integer(64, _MAX_MB, "MB"),
        default=1024,
        table="execution",
        doc="Addresses an execution may reserve, libraries included; at least EXECUTION_MEMORY_MB",
    )
    execution_file_mb: int = _setting(
        "EXECUTION_FILE_MB",
        Integer(1, _MAX_MB, "MB"),
        default=32,
        table="execution",
        doc="Largest file that an execution may write",
    )
    execution_scratch_mb: int = _setting(
        "EXECUTION_SCRATCH_MB",
        Integer(1, _MAX_MB, "MB"),
        default=64,
        table="execution",
        doc="Size of an execution's scratch folder, kept in memory; in namespaces only",
    )
    execution_scratch_files: int = _setting(
        "EXECUTION_SCRATCH_FILES",
        Integer(16, 1000000),
        default=4096,
        table="execution",
        doc="Files and folders in an execution's scratch folder; in namespaces only",
    )
    execution_processes: int = _setting(
        "EXECUTION_PROCESSES",
        Integer(1, 65536),
        default=64,
        table="execution",
        doc="Processes and threads of an execution together; in namespaces only",
    )
    execution_open_files: int = _setting(
        "EXECUTION_OPEN_FILES",
        Integer(16, 65536),
        default=64,
        table="execution",
        doc="Files and sockets that an execution may hold open",
    )
    execution_log_kb: int = _setting(
        "EXECUTION_LOG_KB",
        Integer(1, 16384, "KB"),
        default=64,
        table="execution",
        doc="How much of an execution's output is kept, its head and its tail",
    )
    execution_log_written_mb: int = _setting(
        "EXECUTION_LOG_WRITTEN_MB",
        Integer(1, 1024, "MB"),
        default=16,
        table="execution",
        doc="An execution that prints more is ended; at least EXECUTION_LOG_KB",
    )
    max_timeout_seconds: float = _setting(
        "MAX_TIMEOUT_SECONDS",
        Seconds(0.1, 3600),
        default=300,
        table="caps",
        doc="Longest timeout_seconds in an anymind.yaml; at least EXECUTION_TIMEOUT_SECONDS",
    )
    max_memory_mb: int = _setting(
        "MAX_MEMORY_MB",
        Integer(16, _MAX_MB, "MB"),
        default=1024,
        table="caps",
        doc="Largest memory_mb in an anymind.yaml; at least EXECUTION_MEMORY_MB",
    )
    max_address_space_mb: int = _setting(
        "MAX_ADDRESS_SPACE_MB",
        Integer(64, _MAX_MB, "MB"),
        default=4096,
        table="caps",
        doc="Largest address_space_mb in an anymind.yaml; at least EXECUTION_ADDRESS_SPACE_MB "
        "and MAX_MEMORY_MB",
    )
    max_file_mb: int = _setting(
        "MAX_FILE_MB",
        Integer(1, _MAX_MB, "MB"),
        default=256,
        table="caps",
        doc="Largest file_mb in an anymind.yaml; at least EXECUTION_FILE_MB",
    )
    max_scratch_mb: int = _setting(
        "MAX_SCRATCH_MB",
        Integer(1, _MAX_MB, "MB"),
        default=256,
        table="caps",
        doc="Largest scratch_mb in an anymind.yaml; at least EXECUTION_SCRATCH_MB",
    )
    max_scratch_files: int = _setting(
        "MAX_SCRATCH_FILES",
        Integer(16, 1000000),
        default=16384,
        table="caps",
        doc="Most scratch_files in an anymind.yaml; at least EXECUTION_SCRATCH_FILES",
    )
    max_open_files: int = _setting(
        "MAX_OPEN_FILES",
        Integer(16, 65536),
        default=256,
        table="caps",
        doc="Most open_files in an anymind.yaml; at least EXECUTION_OPEN_FILES",
    )
    max_processes: int = _setting(
        "MAX_PROCESSES",
        Integer(1, 65536),
        default=128,
        table="caps",
        doc="Most processes in an anymind.yaml; at least EXECUTION_PROCESSES",
    )
    payload_max_bytes: int = _setting(
        "PAYLOAD_MAX_SIZE",
        Integer(1024, _JSON_MAX_BYTES, "bytes"),
        default=1048576,
        table="limits",
        doc="Largest JSON body of a request",
    )
    result_max_bytes: int = _setting(
        "RESULT_MAX_SIZE",
        Integer(1024, _JSON_MAX_BYTES, "bytes"),
        default=1048576,
        table="limits",
        doc="Largest result that an agent may return, as JSON",
    )
    unpacked_max_bytes: int = _setting(
        "UNPACKED_MAX_SIZE",
        Integer(1, _MAX_BYTES, "bytes"),
        default=268435456,
        table="limits",
        doc="Largest sum of the files in an artifact, unpacked",
    )
    unpacked_max_files: int = _setting(
        "UNPACKED_MAX_FILES",
        Integer(1, 1000000),
        default=5000,
        table="limits",
        doc="Most files and folders in an artifact",
    )
    execution_retention_days: int = _setting(
        "EXECUTION_RETENTION_DAYS",
        Integer(0, 36500, "days"),
        default=30,
        table="retention",
        doc="Age at which finished executions are removed; 0 keeps them for ever",
    )
    execution_retention_count: int = _setting(
        "EXECUTION_RETENTION_COUNT",
        Integer(0, 1000000000),
        default=10000,
        table="retention",
        doc="Executions kept for each agent, the newest ones; 0 sets no bound",
    )

    @property
    def disk_reserve_bytes(self) -> int:
        """`disk_reserve_mb` in bytes."""
        return self.disk_reserve_mb << 20

    @property
    def secret_key_path(self) -> Path:
        """Where the generated key stands when `secret_key` is None."""
        return self.data_dir / "secret.key"

    @property
    def queue_path(self) -> Path:
        """The disposable file of build wake-ups."""
        return self.data_dir / "queue.sqlite3"

    @property
    def code_path(self) -> Path:
        """The folder of unpacked artifacts, emptied at start."""
        return self.data_dir / "code"

    @property
    def run_path(self) -> Path:
        """The folder of the instance lock, sockets and scratch dirs."""
        return self.data_dir / "run"

    @property
    def backups_path(self) -> Path:
        """The folder of copies that are kept of the database before its schema changes."""
        return self.data_dir / "backups"

    @property
    def restore_mark_path(self) -> Path:
        """The file that stands while a backup is being restored; no server starts beside it."""
        return self.data_dir / "restore-unfinished"


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(attribute=declared.name, **declared.metadata) for declared in fields(Settings)
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_BY_KEY = {setting.key: setting for setting in SETTINGS}
_TABLES = tuple(dict.fromkeys(setting.table for setting in SETTINGS))


# Reading the sources ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a value is written."""

    kind: Literal["command line", "environment", ".env", "config.toml", "default"]
    place: str = ""  # "line 3" of .env, "[server]" of config.toml

    def __str__(self) -> str:
        return f"{self.kind}, {self.place}" if self.place else self.kind


@dataclass(frozen=True)
class _Written:
    """A value as it is written, not yet read."""

    value: object
    source: Source

    @property
    def is_unset(self) -> bool:
        """Whether it is an empty variable, which counts as not there."""
        # Docker Compose passes an unset `X: ${X}` on as empty. (test_empty_variable_is_unset)
        is_variable = self.source.kind in ("environment", ".env")
        return is_variable and isinstance(self.value, str) and not self.value.strip()


@dataclass(frozen=True)
class ShownSetting:
    """A setting as the `config` command prints it; secrets are masked."""

    name: str
    value: str
    source: str
    doc: str


@dataclass(frozen=True)
class LoadedSettings:
    """The settings, where each came from (by name), and what the CLI should warn about."""

    settings: Settings
    sources: Mapping[str, Source]
    warnings: tuple[str, ...]

    def shown(self) -> Iterator[ShownSetting]:
        """Yield every setting in its order, ready to print."""
        for setting in SETTINGS:
            value = setting.kind.show(getattr(self.settings, setting.attribute))
            source = str(self.sources[setting.name])
            yield ShownSetting(name=setting.name, value=value, source=source, doc=setting.doc)


def load_settings(
    project_dir: Path, *, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> LoadedSettings:
    """Read and check every setting; `overrides` are command-line flags by setting name.

    An override of None is a flag that was not given. The files are `.env` and `config.toml` in
    `project_dir`; both may be missing. `environ` is only read.
    Raises SettingsError, which lists everything that is wrong, and KeyError for an override that is
    no setting, which is a mistake in the program.
    """
    problems: list[str] = []
    warnings: list[str] = []
    layers = (
        _overrides(overrides or {}),
        _environment(environ, warnings),
        _dotenv_file(project_dir / ".env", problems, warnings),
        _toml_file(project_dir / "config.toml", problems),
    )
    values: dict[str, object] = {}
    sources: dict[str, Source] = {}
    wrong: set[str] = set()
    for setting in SETTINGS:
        written = [layer[setting.name] for layer in layers if setting.name in layer]
        reading = _read_setting(setting, written)
        values[setting.attribute], sources[setting.name] = reading.value, reading.source
        problems += reading.problems
        if reading.problems:
            wrong.add(setting.name)
    settings = _resolved(values, project_dir.absolute())
    problems += _broken_relations(settings, sources, wrong)
    if problems:
        raise SettingsError(problems)
    return LoadedSettings(settings=settings, sources=sources, warnings=tuple(warnings))


@dataclass(frozen=True)
class _Reading:
    """One setting's value; its default where the one that counts is wrong."""

    value: object
    source: Source
    problems: tuple[str, ...]


def _read_setting(setting: Setting, written: Iterable[_Written]) -> _Reading:
    """Take the first value that is set; check it, and every one in a file even where it is hidden.

    A hidden variable of the environment may be another program's (`DEBUG=app:*`) and is let be.
    """
    default = _Written(setting.default, Source("default"))
    candidates = [candidate for candidate in written if not candidate.is_unset]
    winner = candidates[0] if candidates else default
    value, problems = _read(setting, default), []
    for candidate in candidates:
        if candidate is not winner and candidate.source.kind == "environment":
            continue
        try:
            read = _read(setting, candidate)
        except RefusedError as refused:
            problems.append(_problem(setting, candidate, str(refused)))
        else:
            value = read if candidate is winner else value
    return _Reading(value=value, source=winner.source, problems=tuple(problems))


def _read(setting: Setting, written: _Written) -> object:
    """Return the checked value; None where nothing is set and nothing is the default."""
    value, kind = written.value, setting.kind
    if not isinstance(value, str):
        return kind.from_typed(value)
    if written.source.kind == "config.toml" and not kind.is_text:
        raise RefusedError("it stands in quotes, and should not")
    text = value.strip()
    if not text:
        if setting.default == "":
            return None
        raise RefusedError("it is empty")
    # Control characters, and the surrogates that stand for bytes which are not UTF-8.
    if not text.isprintable():
        raise RefusedError("it holds a character that cannot be printed")
    return kind.from_text(text)


def _overrides(overrides: Mapping[str, object]) -> dict[str, _Written]:
    unknown = overrides.keys() - _BY_NAME.keys()
    if unknown:
        raise KeyError(*sorted(unknown))
    source = Source("command line")
    return {name: _Written(value, source) for name, value in overrides.items() if value is not None}


def _environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, _Written]:
    for name in sorted(environ):
        if name.startswith("ANYMIND_") and name not in OTHER_VARIABLES:
            hint = _did_you_mean(name, (*OTHER_VARIABLES, *_BY_NAME))
            warnings.append(f"{_quoted(name)} in the environment has no effect{hint}")
    source = Source("environment")
    return {name: _Written(environ[name], source) for name in _BY_NAME if name in environ}


def _dotenv_file(path: Path, problems: list[str], warnings: list[str]) -> dict[str, _Written]:
    """Read `.env`; of a name that stands twice the last line counts, as in a shell."""
    text = _file_text(path, problems)
    if text is None:
        return {}
    found: dict[str, _Written] = {}
    for line, name, value in _dotenv_lines(text):
        if name is None or value is None:
            # The line itself stays out of the message: half a line may be half a secret.
            problems.append(f".env, line {line}: this is not NAME=value")
        elif name in OTHER_VARIABLES:
            warnings.append(f"{name} in .env has no effect: it is read from the environment only")
        elif name not in _BY_NAME:
            hint = _did_you_mean(name, (*OTHER_VARIABLES, *_BY_NAME))
            problems.append(f".env, line {line}: there is no setting {_quoted(name)}{hint}")
        else:
            found[name] = _Written(value, Source(".env", f"line {line}"))
    return found


def _dotenv_lines(text: str) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield line number, name and value; name or value is None where a line is malformed.

    The parser under `dotenv_values`, because that one drops line numbers and only logs bad lines.
    It substitutes nothing: `$` and `${X}` are ordinary characters.
    """
    from io import StringIO

    from dotenv.parser import parse_stream

    for binding in parse_stream(StringIO(text)):
        if binding.key is None and not binding.error:
            continue  # a comment, or the end
        written = binding.original.string
        blank = written[: len(written) - len(written.lstrip())]
        line = binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))
        yield line, binding.key, binding.value


def _toml_file(path: Path, problems: list[str]) -> dict[str, _Written]:
    import tomllib

    text = _file_text(path, problems)
    if text is None:
        return {}
    try:
        document = tomllib.loads(text)
    # ValueError: an integer of thousands of digits; RecursionError: thousands of brackets.
    except (ValueError, RecursionError) as error:
        problems.append(f"config.toml is not valid TOML: {error}")
        return {}
    found: dict[str, _Written] = {}
    for table, content in document.items():
        if table in _TABLES and isinstance(content, dict):
            found |= _toml_table(table, content, problems)
        else:
            problems.append(f"config.toml: {_wrong_table(table)}")
    return found


def _toml_table(table: str, content: dict[str, Any], problems: list[str]) -> dict[str, _Written]:
    found: dict[str, _Written] = {}
    for key, value in content.items():
        setting = _BY_KEY.get(key)
        if setting is None:
            hint = _did_you_mean(key, _BY_KEY)
            problems.append(f"config.toml, [{table}]: there is no setting {_quoted(key)}{hint}")
        elif setting.table != table:
            problems.append(f"config.toml, [{table}]: {key} belongs under [{setting.table}]")
        else:
            found[setting.name] = _Written(value, Source("config.toml", f"[{table}]"))
    return found


def _wrong_table(table: str) -> str:
    if table in _TABLES:
        return f"{table} is a table and is written [{table}]"
    if table in _BY_KEY:
        return f"{table} belongs under [{_BY_KEY[table].table}]"
    return f"there is no table {_quoted(table)}{_did_you_mean(table, (*_TABLES, *_BY_KEY))}"


def _file_text(path: Path, problems: list[str]) -> str | None:
    """Return a file's text, or None when it is missing or, with a problem noted, unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return None
    if len(content) > _MAX_FILE_BYTES:
        problems.append(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
        return None
    try:
        return content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(f"{path} is not UTF-8 text: see line {line}")
        return None


# Checks across settings ---------------------------------------------------------------------------


def _resolved(values: dict[str, Any], project_dir: Path) -> Settings:
    """Make every path absolute and fill in those that follow DATA_DIR."""
    data_dir = project_dir / values["data_dir"]
    database_path = values["database_path"] or data_dir / "anymind.sqlite3"
    storage_path = values["storage_path"] or data_dir / "artifacts"
    paths = {
        "data_dir": data_dir,
        "database_path": project_dir / database_path,
        "storage_path": project_dir / storage_path,
    }
    return Settings(**(values | paths))


def _address_space_relation(settings: Settings) -> str | None:
    if settings.execution_address_space_mb >= settings.execution_memory_mb:
        return None
    return f"it must be at least EXECUTION_MEMORY_MB, which is {settings.execution_memory_mb}"


def _cap_relation(cap: str, default: str) -> Callable[["Settings"], str | None]:
    """Hold that a version may ask for no less than what it gets without asking."""

    def relation(settings: Settings) -> str | None:
        value = getattr(settings, default.lower())
        if getattr(settings, cap.lower()) >= value:
            return None
        return f"it must be at least {default}, which is {_BY_NAME[default].kind.show(value)}"

    return relation


def _log_relation(settings: Settings) -> str | None:
    if settings.execution_log_kb <= settings.execution_log_written_mb * 1024:
        return None
    return (
        f"it must be at most EXECUTION_LOG_WRITTEN_MB, which is {settings.execution_log_written_mb}"
    )


def _secret_key_relation(settings: Settings) -> str | None:
    least = MIN_SECRET_KEY_BYTES[settings.algorithm]
    if settings.secret_key is None or len(settings.secret_key.encode()) >= least:
        return None
    return f"it has {len(settings.secret_key.encode())} bytes; {settings.algorithm} needs {least}"


def _storage_relation(settings: Settings) -> str | None:
    """Keep artifacts out of what the server sweeps, and everything else out of the artifacts."""
    storage = _plain(settings.storage_path)
    if _plain(settings.data_dir).is_relative_to(storage):
        return "it must be a folder of its own, not DATA_DIR or one above it"
    return _swept_by_server(storage, settings)


def _database_relation(settings: Settings) -> str | None:
    database = _plain(settings.database_path)
    if database.is_relative_to(_plain(settings.storage_path)):
        return "it must not lie among the artifacts in STORAGE_PATH"
    if database in (_plain(settings.queue_path), _plain(settings.secret_key_path)):
        return "the server uses that file for something else"
    return _swept_by_server(database, settings)


def _swept_by_server(path: Path, settings: Settings) -> str | None:
    for folder in (settings.code_path, settings.run_path):
        if path.is_relative_to(_plain(folder)):
            return f"it must not lie in {folder.name} in DATA_DIR, which the server empties"
    return None


def _plain(path: Path) -> Path:
    return Path(normpath(path))


# What a manifest may ask for, and what it must not be less than.
_CAPS = (
    ("MAX_TIMEOUT_SECONDS", "EXECUTION_TIMEOUT_SECONDS"),
    ("MAX_MEMORY_MB", "EXECUTION_MEMORY_MB"),
    ("MAX_ADDRESS_SPACE_MB", "EXECUTION_ADDRESS_SPACE_MB"),
    ("MAX_ADDRESS_SPACE_MB", "MAX_MEMORY_MB"),
    ("MAX_FILE_MB", "EXECUTION_FILE_MB"),
    ("MAX_SCRATCH_MB", "EXECUTION_SCRATCH_MB"),
    ("MAX_SCRATCH_FILES", "EXECUTION_SCRATCH_FILES"),
    ("MAX_OPEN_FILES", "EXECUTION_OPEN_FILES"),
    ("MAX_PROCESSES", "EXECUTION_PROCESSES"),
)

# The settings that a relation reads, the one to name first, and the check: a sentence, or None.
_RELATIONS: tuple[tuple[tuple[str, ...], Callable[[Settings], str | None]], ...] = (
    (("EXECUTION_ADDRESS_SPACE_MB", "EXECUTION_MEMORY_MB"), _address_space_relation),
    *((names, _cap_relation(*names)) for names in _CAPS),
    (("EXECUTION_LOG_KB", "EXECUTION_LOG_WRITTEN_MB"), _log_relation),
    (("SECRET_KEY", "ALGORITHM"), _secret_key_relation),
    (("STORAGE_PATH", "DATA_DIR"), _storage_relation),
    (("DATABASE_URL", "STORAGE_PATH", "DATA_DIR"), _database_relation),
)


def _broken_relations(
    settings: Settings, sources: Mapping[str, Source], wrong: set[str]
) -> Iterator[str]:
    """Yield a sentence for every pair of values that do not fit; `wrong` ones are told already."""
    for names, check in _RELATIONS:
        reason = None if wrong.intersection(names) else check(settings)
        if reason:
            setting = _BY_NAME[names[0]]
            shown = setting.kind.show(getattr(settings, setting.attribute))
            others = ", ".join(f"{name}: {sources[name]}" for name in names[1:])
            yield f"{setting.name} ({sources[setting.name]}) is {shown}: {reason} ({others})"


# Messages -----------------------------------------------------------------------------------------


def _problem(setting: Setting, written: _Written, reason: str) -> str:
    shown = _shown_wrong(setting.kind, written.value)
    why = f" {reason};" if reason else ""
    return f"{setting.name} ({written.source}) is {shown}:{why} accepted is {setting.kind.accepts}"


def _shown_wrong(kind: Kind, value: object) -> str:
    """Write a refused value so that it fits a log line and gives no secret away."""
    if isinstance(kind, Secret):
        return kind.mask("")
    if isinstance(value, str):
        return _quoted(kind.mask(value))
    if isinstance(value, bool | float):
        return str(value).lower()
    if isinstance(value, int):
        # str() refuses thousands of digits, which 0xfff... in TOML can make.
        return str(value) if abs(value) < 10**_MAX_SHOWN_CHARACTERS else "a huge number"
    if isinstance(value, list | tuple):
        return "a list"
    return "a table" if isinstance(value, dict) else f"a {type(value).__name__}"


def _quoted(text: str) -> str:
    if len(text) > _MAX_SHOWN_CHARACTERS:
        text = text[:_MAX_SHOWN_CHARACTERS] + "..."
    return f'"{repr(text)[1:-1]}"'  # repr escapes what could forge a line of a log


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing where no known name is near."""
    import difflib

    # Case does not count, nor a prefix: `server_port`, `ANYMIND_SERVER_PORT` mean SERVER_PORT.
    by_lower = {candidate.lower(): candidate for candidate in known}
    written = name[:_MAX_SHOWN_CHARACTERS].lower()
    for attempt in (written, written.removeprefix("anymind_")):
        near = difflib.get_close_matches(attempt, by_lower, n=1, cutoff=0.75)
        if near:
            return f"; did you mean {by_lower[near[0]]}?"
    return ""
