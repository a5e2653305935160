"""What recovery and retention look for, found without reading whole tables."""

from typing import Any

INDEXES = (
    "CREATE INDEX IF NOT EXISTS execution_agent ON execution (agent_id, id)",
    "CREATE INDEX agent_building ON agent (id) WHERE status = 'building'",
)


def up(migrator: Any, db: Any) -> None:
    """Create the indexes."""
    for statement in INDEXES:
        db.execute_sql(statement)
