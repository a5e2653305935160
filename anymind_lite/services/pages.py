"""The window of a list."""

from dataclasses import dataclass

MAX_LIMIT = 1000


@dataclass(frozen=True)
class Page:
    """`skip` rows are passed over (0 or more), then at most `limit` (1 to 1000) are returned."""

    skip: int = 0
    limit: int = 100
