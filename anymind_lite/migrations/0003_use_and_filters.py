"""What executions used, and an index for each way to list them.

Each index ends in the id, by which lists are ordered: the newest of a million are found at once.
Rows from before keep nulls: nobody measured.
"""

from typing import Any

STATEMENTS = (
    "ALTER TABLE execution ADD COLUMN duration_ms INTEGER",
    "ALTER TABLE execution ADD COLUMN cpu_ms INTEGER",
    "ALTER TABLE execution ADD COLUMN max_rss_kb INTEGER",
    "CREATE INDEX execution_user_status ON execution (user_id, status, id)",
    "CREATE INDEX execution_agent ON execution (agent_id, id)",
    "CREATE INDEX execution_agent_status ON execution (agent_id, status, id)",
    "CREATE INDEX execution_version_status ON execution (agent_version_id, status, id)",
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns and indexes."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
