"""Idempotency keys: a client that got no answer asks again, and nothing is done twice.

As the IETF draft "The Idempotency-Key HTTP Header Field" says. A key is the user's, holds for a day
and belongs to one request: what was asked for and with which body, kept as a fingerprint. It is
written in the transaction that inserts the row which it stands for, so there is never one without
the other.

A clock that steps forward must not end the day at once, or what is asked for again would be done
twice: keys are forgotten only when it has run evenly for an hour. Those go, too, that were written
while it stood far in the future; they would hold until then.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from anymind_lite.clock import SteadyClock, utc_now
from anymind_lite.database import write_transaction
from anymind_lite.errors import InvalidInput, StillRunning
from anymind_lite.models import UNFINISHED, AgentVersion, Execution, IdempotencyKey, User

MAX_KEY_CHARS = 255
_LIFETIME = timedelta(hours=24)
_FAR_AHEAD = timedelta(days=7)
# Laptops run for hours; a network corrects a clock within minutes.
STEADY_SECONDS = 3600.0

Row = TypeVar("Row", Execution, AgentVersion)


@dataclass(frozen=True)
class Made(Generic[Row]):
    """A row that a request asked for; `is_replay` when an earlier request has made it."""

    row: Row
    is_replay: bool = False


@dataclass(frozen=True)
class KeyedRequest:
    """A key, with the fingerprint of the request that carried it."""

    key: str
    fingerprint: str


def keyed_request(
    key: str | None, operation: str, target_id: int, body: str
) -> KeyedRequest | None:
    """Return what the key stands for; None without a key."""
    if key is None:
        return None
    text = f"{operation} {target_id} {body}"
    return KeyedRequest(key, hashlib.sha256(text.encode()).hexdigest())


def find_execution(user: User, request: KeyedRequest | None) -> Execution | None:
    """Return the finished execution that an earlier request with this key has made.

    Raises InvalidInput when that was another request, and StillRunning.
    """
    earlier = _find(user, request)
    if earlier is None:
        return None
    execution: Execution | None = Execution.get_or_none(Execution.id == earlier.execution_id)
    # None when it has just been deleted, and the key with it.
    if execution is not None and execution.status in UNFINISHED:
        raise StillRunning(execution.id)
    return execution


def find_version(user: User, request: KeyedRequest | None) -> AgentVersion | None:
    """Return the version that an earlier upload with this key has made. Raises InvalidInput."""
    earlier = _find(user, request)
    if earlier is None:
        return None
    version: AgentVersion | None = AgentVersion.get_or_none(
        AgentVersion.id == earlier.agent_version_id
    )
    return version


def is_known(user: User, key: str | None) -> bool:
    """Tell whether a key stands for something already, whatever that is."""
    return key is not None and (
        IdempotencyKey.select()
        .where(IdempotencyKey.user == user.id, IdempotencyKey.key == key)
        .exists()
    )


def remember(
    user: User,
    request: KeyedRequest | None,
    *,
    execution_id: int | None = None,
    agent_version_id: int | None = None,
) -> None:
    """Write down what the key stands for from now on; in the transaction that inserts that row.

    The key must be free: `find_execution` or `find_version` said so in the same transaction.
    """
    if request is not None:
        IdempotencyKey.create(
            user=user.id,
            key=request.key,
            fingerprint=request.fingerprint,
            execution=execution_id,
            agent_version=agent_version_id,
            created_at=utc_now(),
        )


def forget(execution_id: int) -> None:
    """Free the key of an execution that never began; in the transaction that closes it."""
    IdempotencyKey.delete().where(IdempotencyKey.execution == execution_id).execute()


def forget_expired(clock: SteadyClock) -> None:
    """Delete the keys that hold no more, unless the clock cannot be believed."""
    now, is_steady = clock.read()
    if not is_steady:
        return
    with write_transaction():
        IdempotencyKey.delete().where(
            (IdempotencyKey.created_at < now - _LIFETIME)
            | (IdempotencyKey.created_at > now + _FAR_AHEAD)
        ).execute()


def _find(user: User, request: KeyedRequest | None) -> IdempotencyKey | None:
    if request is None:
        return None
    earlier: IdempotencyKey | None = IdempotencyKey.get_or_none(
        IdempotencyKey.user == user.id,
        IdempotencyKey.key == request.key,
    )
    if earlier is not None and earlier.fingerprint != request.fingerprint:
        raise InvalidInput("This Idempotency-Key was used for another request; take a new one")
    return earlier
