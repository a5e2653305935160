"""What versions ask for, and why executions ended behind which walls.

Rows from before keep nulls: nobody knows any more.
"""

from typing import Any

COLUMNS = (
    "ALTER TABLE agent_version ADD COLUMN limits TEXT",
    "ALTER TABLE agent_version ADD COLUMN allows_processes INTEGER NOT NULL DEFAULT 0",
    """
    ALTER TABLE execution ADD COLUMN error_code TEXT
        CHECK (error_code IN ('timeout', 'out_of_memory', 'cpu_limit', 'output_too_large',
            'not_json', 'exception', 'exited', 'killed_by_signal', 'sandbox_failure', 'cancelled',
            'server_restarted'))
    """,
    "ALTER TABLE execution ADD COLUMN tier TEXT CHECK (tier IN ('A', 'B', 'C'))",
    "ALTER TABLE execution ADD COLUMN layers TEXT",
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns."""
    for statement in COLUMNS:
        db.execute_sql(statement)
