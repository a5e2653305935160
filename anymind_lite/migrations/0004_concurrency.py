"""How many executions of its agent a version lets run at once; null for any number.

Versions from before could not say it.
"""

from typing import Any


def up(migrator: Any, db: Any) -> None:
    """Add the column."""
    db.execute_sql("ALTER TABLE agent_version ADD COLUMN concurrency INTEGER")
