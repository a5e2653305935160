"""What a client asked for under which Idempotency-Key, so that it can safely ask again."""

from typing import Any

STATEMENTS = (
    """
    CREATE TABLE idempotency_key (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        execution_id INTEGER REFERENCES execution (id) ON DELETE CASCADE,
        agent_version_id INTEGER REFERENCES agent_version (id) ON DELETE CASCADE,
        created_at TEXT NOT NULL,
        UNIQUE (user_id, key),
        CHECK ((execution_id IS NULL) <> (agent_version_id IS NULL))
    )
    """,
    "CREATE INDEX idempotency_key_created ON idempotency_key (created_at)",
    # For the deletes that cascade to here.
    "CREATE INDEX idempotency_key_execution ON idempotency_key (execution_id)",
    "CREATE INDEX idempotency_key_version ON idempotency_key (agent_version_id)",
)


def up(migrator: Any, db: Any) -> None:
    """Create the table and its indexes."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
