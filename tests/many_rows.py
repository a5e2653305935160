"""A database of very many rows, made in seconds: what a server has after years."""

from pathlib import Path

from anymind_lite.clock import iso_format, utc_now
from anymind_lite.credentials import new_api_key
from anymind_lite.database import ServerDatabase, open_database

AGENTS = 10
_SECONDS_BETWEEN = 60


def fill(path: Path, *, executions: int = 0, queued: int = 0, keys: int = 1) -> str:
    """Make a database at `path`; return an API key of its one user, who has so many.

    The executions are of ten agents in turn, one a minute up to now, so that a million reach two
    years back. Each of the queued versions has an agent of its own, and no artifact. Nothing of it
    is durable.
    """
    opened = open_database(path)
    try:
        opened.execute_sql("PRAGMA synchronous = OFF")
        with opened.atomic():
            key = _add_user(opened)
            _add_keys(opened, keys - 1)
            _add_agents(opened)
            _add_executions(opened, executions)
            _add_queued(opened, queued)
    finally:
        opened.close_all()
    return key


def _add_user(opened: ServerDatabase) -> str:
    made, now = new_api_key(), iso_format(utc_now())
    opened.execute_sql(
        "INSERT INTO user (id, email, username, password_hash, is_active, created_at) "
        "VALUES (1, 'user@example.com', 'user', '-', 1, ?)",
        (now,),
    )
    opened.execute_sql(
        "INSERT INTO api_key (user_id, name, key_prefix, key_hash, is_active, created_at) "
        "VALUES (1, 'key', ?, ?, 1, ?)",
        (made.prefix, made.key_hash, now),
    )
    return made.key


def _add_keys(opened: ServerDatabase, count: int) -> None:
    opened.execute_sql(
        """
        WITH RECURSIVE numbers (i) AS (SELECT 1 WHERE ? > 0
            UNION ALL SELECT i + 1 FROM numbers WHERE i < ?)
        INSERT INTO api_key (user_id, name, key_prefix, key_hash, is_active, created_at)
        SELECT 1, 'key', '-', lower(hex(randomblob(32))), 1, ? FROM numbers
        """,
        (count, count, iso_format(utc_now())),
    )


def _add_agents(opened: ServerDatabase) -> None:
    for number in range(1, AGENTS + 1):
        _add_agent(opened, number, "ready", current_version_id=number)


def _add_queued(opened: ServerDatabase, count: int) -> None:
    for number in range(AGENTS + 1, AGENTS + count + 1):
        _add_agent(opened, number, "queued", current_version_id=None)


def _add_agent(
    opened: ServerDatabase, number: int, status: str, *, current_version_id: int | None
) -> None:
    now = iso_format(utc_now())
    agent_status = "building" if status == "queued" else status
    opened.execute_sql(
        "INSERT INTO agent (id, user_id, name, status, current_version_id, created_at, updated_at) "
        "VALUES (?, 1, 'agent', ?, ?, ?, ?)",
        (number, agent_status, current_version_id, now, now),
    )
    opened.execute_sql(
        "INSERT INTO agent_version (id, agent_id, number, status, tarball_path, tarball_sha256, "
        "tarball_bytes, entrypoint, attempts, created_at, updated_at) "
        "VALUES (?, ?, 1, ?, ?, '-', 1, 'main:handle', 0, ?, ?)",
        (number, number, status, f"agents/{number}/none.tar.gz", now, now),
    )


def _add_executions(opened: ServerDatabase, count: int) -> None:
    opened.execute_sql(
        """
        WITH RECURSIVE numbers (i) AS (SELECT 1 WHERE ? > 0
            UNION ALL SELECT i + 1 FROM numbers WHERE i < ?)
        INSERT INTO execution (agent_id, agent_version_id, user_id, status, input_data,
            output_data, error_message, error_code, created_at, started_at, finished_at, updated_at)
        SELECT 1 + i % ?, 1 + i % ?, 1, iif(i % 7, 'completed', 'failed'),
            '{"text":"a payload as they are, of a line or so"}', '{"words":9}',
            iif(i % 7, NULL, 'ValueError: no'), iif(i % 7, NULL, 'exception'), at, at, at, at
        FROM (SELECT i, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', (? * (i - ?)) || ' seconds') AS at
            FROM numbers)
        """,
        (count, count, AGENTS, AGENTS, _SECONDS_BETWEEN, count),
    )
