"""API keys: making, listing and revoking them, and whose key it is."""

import threading
from datetime import datetime

from peewee import DatabaseError

from anymind_lite.clock import utc_now
from anymind_lite.credentials import hash_api_key, new_api_key
from anymind_lite.database import PreparedSelect, is_disk_full, write_transaction
from anymind_lite.errors import NotFound
from anymind_lite.models import ApiKey, User
from anymind_lite.services.names import checked_name

_USER_OF_KEY = PreparedSelect(
    User.select(User, ApiKey.id.alias("api_key_id"))
    .join(ApiKey)
    .where(ApiKey.key_hash == "", ApiKey.is_active)
)


class KeyUsage:
    """Remembers when each key was last used, and writes it down now and then.

    A durable commit costs a flush of the disk; one for every request would cost more than the
    request. What is lost when the server dies is this column, by a minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used_at: dict[int, datetime] = {}

    def mark(self, api_key_id: int, used_at: datetime) -> None:
        """Note that a key was used."""
        with self._lock:
            self._used_at[api_key_id] = used_at

    def flush(self) -> None:
        """Write what was noted, in one transaction; what cannot be written is kept for later."""
        with self._lock:
            noted, self._used_at = self._used_at, {}
        if not noted:
            return
        try:
            _write_usage(noted)
        except BaseException:
            with self._lock:
                self._used_at = noted | self._used_at
            raise


def _write_usage(noted: dict[int, datetime]) -> None:
    with write_transaction():
        for api_key_id, used_at in noted.items():
            ApiKey.update(last_used_at=used_at).where(ApiKey.id == api_key_id).execute()


def create_api_key(user: User, name: str) -> tuple[ApiKey, str]:
    """Make a key; return its row and the key itself, which is nowhere kept."""
    made = new_api_key()
    name = checked_name(name)
    with write_transaction():
        row = ApiKey.create(
            user=user,
            name=name,
            key_prefix=made.prefix,
            key_hash=made.key_hash,
            created_at=utc_now(),
        )
    return row, made.key


def list_api_keys(user: User, *, key_usage: KeyUsage) -> list[ApiKey]:
    """Return all keys of a user, newest first, the revoked ones too."""
    try:
        key_usage.flush()
    except DatabaseError as exc:
        # What cannot be written is shown a little stale: reading goes on when the disk is full.
        if not is_disk_full(exc):
            raise
    return list(ApiKey.select().where(ApiKey.user == user).order_by(ApiKey.id.desc()))


def revoke_api_key(user: User, api_key_id: int) -> None:
    """Make a key worthless for good; its row stays. Revoking twice is no error."""
    with write_transaction():
        changed = (
            ApiKey.update(is_active=False)
            .where(ApiKey.id == api_key_id, ApiKey.user == user)
            .execute()
        )
    if changed == 0:
        raise NotFound("API key not found")


def find_user_by_key(key: str, *, key_usage: KeyUsage) -> User | None:
    """Return whose key this is, or None when it is unknown or revoked; notes the use."""
    user: User | None = _USER_OF_KEY.find(hash_api_key(key))
    if user is not None:
        key_usage.mark(user.api_key_id, utc_now())
    return user
