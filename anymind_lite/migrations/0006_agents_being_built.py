"""Agents that say they are being built: recovery finds them without reading all agents."""

from typing import Any


def up(migrator: Any, db: Any) -> None:
    """Create the index."""
    db.execute_sql("CREATE INDEX agent_building ON agent (id) WHERE status = 'building'")
