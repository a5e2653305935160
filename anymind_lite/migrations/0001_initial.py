"""The first schema.

Ids are AUTOINCREMENT: without it SQLite hands the id of a deleted newest row out again, and an old
link would show somebody else's row (SQLite manual, "SQLite Autoincrement").
"""

from typing import Any

TABLES = (
    """
    CREATE TABLE user (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        email TEXT NOT NULL COLLATE NOCASE UNIQUE,
        username TEXT NOT NULL COLLATE NOCASE UNIQUE,
        full_name TEXT,
        password_hash TEXT NOT NULL,
        is_active INTEGER NOT NULL,
        created_at TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE api_key (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        key_prefix TEXT NOT NULL,
        key_hash TEXT NOT NULL UNIQUE,
        is_active INTEGER NOT NULL,
        last_used_at TEXT,
        created_at TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE agent (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        description TEXT,
        status TEXT NOT NULL
            CHECK (status IN ('draft', 'building', 'ready', 'failed', 'archived')),
        current_version_id INTEGER,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE agent_version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        agent_id INTEGER NOT NULL REFERENCES agent (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('queued', 'building', 'ready', 'failed')),
        build_log TEXT,
        tarball_path TEXT NOT NULL UNIQUE,
        tarball_sha256 TEXT NOT NULL,
        tarball_bytes INTEGER NOT NULL,
        entrypoint TEXT,
        config TEXT,
        claim TEXT,
        attempts INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        UNIQUE (agent_id, number)
    )
    """,
    """
    CREATE TABLE execution (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        agent_id INTEGER NOT NULL REFERENCES agent (id) ON DELETE CASCADE,
        agent_version_id INTEGER NOT NULL REFERENCES agent_version (id) ON DELETE CASCADE,
        user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
        status TEXT NOT NULL
            CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
        input_data TEXT NOT NULL,
        output_data TEXT,
        error_message TEXT,
        logs TEXT,
        created_at TEXT NOT NULL,
        started_at TEXT,
        finished_at TEXT,
        updated_at TEXT NOT NULL
    )
    """,
)

INDEXES = (
    "CREATE INDEX api_key_user ON api_key (user_id, id)",
    "CREATE INDEX agent_user ON agent (user_id, id)",
    "CREATE INDEX agent_version_updated ON agent_version (agent_id, updated_at, id)",
    "CREATE INDEX version_unfinished ON agent_version (id) WHERE status IN ('queued', 'building')",
    "CREATE INDEX execution_user ON execution (user_id, id)",
    "CREATE INDEX execution_version ON execution (agent_version_id, id)",
    "CREATE INDEX execution_agent_updated ON execution (agent_id, updated_at, id)",
    "CREATE INDEX execution_unfinished ON execution (id) WHERE status IN ('pending', 'running')",
)


def up(migrator: Any, db: Any) -> None:
    """Create every table and index."""
    for statement in TABLES + INDEXES:
        db.execute_sql(statement)
