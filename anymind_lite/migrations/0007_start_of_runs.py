"""How an execution began: from what was imported before or not, after how long, and for how long.

Rows from before keep nulls: nobody measured.
"""

from typing import Any

STATEMENTS = (
    "ALTER TABLE execution ADD COLUMN is_warm INTEGER",
    "ALTER TABLE execution ADD COLUMN queue_ms REAL",
    "ALTER TABLE execution ADD COLUMN start_ms REAL",
    "ALTER TABLE execution ADD COLUMN wall_ms REAL",
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
