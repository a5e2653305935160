"""The errors that services raise, in domain words.

They know no HTTP; `routes/_errors.py` holds the one table that turns them into statuses. The text
of every error here is written for the person who made the request: one sentence, no internals.
"""


class AnymindError(Exception):
    """An error whose text may be shown to the person who caused it."""


class InvalidInput(AnymindError):
    """The request cannot be carried out as it was made."""


class NotAuthenticated(AnymindError):
    """Nobody is signed in, or the credentials are wrong, expired or revoked."""


class NotAllowed(AnymindError):
    """The person is known but may not do this."""


class NotFound(AnymindError):
    """The thing does not exist, or belongs to somebody else."""


class TooLarge(AnymindError):
    """What was sent is larger than the server accepts."""


class Overloaded(AnymindError):
    """Every execution slot and waiting place is taken; trying again later may work."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AgentBusy(Overloaded):
    """As many of an agent's executions run and wait as its manifest and the server allow."""


class DiskFull(AnymindError):
    """So little room is left on the server's disk that nothing large is begun."""


class DatabaseDamaged(AnymindError):
    """The database was found damaged: nothing more is written to it."""


class StillRunning(AnymindError):
    """The same was asked for before and has not ended; `execution_id` tells where to look."""

    def __init__(self, execution_id: int) -> None:
        super().__init__(f"Execution {execution_id} of this Idempotency-Key has not ended yet")
        self.execution_id = execution_id


class EndNotWritten(AnymindError):
    """An execution has ended, and the database did not take how: it is kept until it does.

    `__cause__` is what kept it from being written.
    """

    def __init__(self, execution_id: int) -> None:
        super().__init__(
            f"Execution {execution_id} has ended, and tells how once that can be written down"
        )
        self.execution_id = execution_id


class BuildError(AnymindError):
    """An artifact cannot become a runnable version: the archive, manifest or code is at fault."""


class BackupError(AnymindError):
    """A backup cannot be made or restored; the text names the cause and the fix."""


class StartupError(AnymindError):
    """The server cannot start; the text names the cause and the fix."""


def quoted(text: str, max_chars: int = 80) -> str:
    """Return a stranger's text in quotes, fit for an error message: cut, on one line, printable."""
    cut = text if len(text) <= max_chars else text[: max_chars - 3] + "..."
    printable = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return '"' + "".join(printable) + '"'
