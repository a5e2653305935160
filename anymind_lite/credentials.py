"""Passwords, access tokens, API keys and the key that signs the tokens.

Everything cryptographic lives here, and nothing else: no database, no HTTP.
"""

import hashlib
import logging
import re
import secrets
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import bcrypt

from anymind_lite.errors import NotAuthenticated
from anymind_lite.files import write_durable

logger = logging.getLogger(__name__)

# bcrypt reads no further (Provos and Mazieres 1999); the library refuses longer passwords.
MAX_PASSWORD_BYTES = 72

_PARALLEL_HASHES = 2
_MAX_TOKEN_CHARS = 4096
MAX_ID = 2**63 - 1  # SQLite's integers
_ID = re.compile(r"[1-9][0-9]{0,18}")

_API_KEY_MARK = "anymind_"
_API_KEY_PREFIX_CHARS = 12

_SECRET_KEY_BYTES = 64  # as many as HS512 needs (RFC 7518, section 3.2)
_SECRET_KEY = re.compile(rb"[0-9a-f]{128}")


class PasswordHasher:
    """Hashes and checks passwords with bcrypt, at most two at a time.

    A hash costs a tenth of a second of CPU and more by design: without the bound a handful of
    log-ins would starve every other request. The waiting threads hold no lock.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._slots = threading.BoundedSemaphore(_PARALLEL_HASHES)
        # Right in form and cost, and no password has it.
        self._unknown_hash = (bcrypt.gensalt(rounds) + b"." * 31).decode()

    def hash(self, password: str) -> str:
        """Return the bcrypt hash; raises ValueError for a password over 72 bytes."""
        with self._slots:
            return bcrypt.hashpw(password.encode(), bcrypt.gensalt(self._rounds)).decode()

    def verify(self, password: str, password_hash: str) -> bool:
        """Tell whether the password has this hash; a password that is too long has none."""
        secret = password.encode()
        with self._slots:
            # Cut rather than skipped, so that the time tells nothing.
            matches = bcrypt.checkpw(secret[:MAX_PASSWORD_BYTES], password_hash.encode())
        return matches and len(secret) <= MAX_PASSWORD_BYTES

    def burn(self, password: str) -> None:
        """Do the work of `verify` for a name that nobody has, so that the time tells nothing."""
        self.verify(password, self._unknown_hash)


def create_access_token(
    user_id: int, *, secret_key: str, algorithm: str, lifetime: timedelta, now: datetime
) -> str:
    """Sign a token that names a user until `now` plus the lifetime.

    There is no `iat`: after a clock step backwards PyJWT would refuse one from the future.
    """
    import jwt  # here and below: many servers are used with API keys alone

    return jwt.encode({"sub": str(user_id), "exp": now + lifetime}, secret_key, algorithm)


def read_access_token(token: str, *, secret_key: str, algorithm: str) -> int:
    """Return the user id of a token that this server signed; raises NotAuthenticated."""
    import jwt

    if len(token) > _MAX_TOKEN_CHARS:
        raise NotAuthenticated("Invalid token")
    try:
        claims = jwt.decode(
            token,
            secret_key,
            # Pinned: the token's own `alg` would let its author choose `none` (RFC 8725, 2.1).
            algorithms=[algorithm],
            options={"require": ["exp", "sub"], "verify_iat": False},
        )
    except jwt.ExpiredSignatureError as exc:
        raise NotAuthenticated("Token has expired") from exc
    except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError) as exc:
        # The last three come from a header that is odd or deep JSON; nobody signed it.
        raise NotAuthenticated("Invalid token") from exc
    return _read_subject(claims["sub"])


def _read_subject(subject: str) -> int:
    if _ID.fullmatch(subject) is None or int(subject) > MAX_ID:
        raise NotAuthenticated("Invalid token")
    return int(subject)


@dataclass(frozen=True)
class NewApiKey:
    """A fresh API key; only the prefix and the hash are kept."""

    key: str
    prefix: str
    key_hash: str


def new_api_key() -> NewApiKey:
    """Make an API key of 256 random bits."""
    key = _API_KEY_MARK + secrets.token_urlsafe(32)
    return NewApiKey(key, key[:_API_KEY_PREFIX_CHARS], hash_api_key(key))


def hash_api_key(key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal.

    A fast hash suffices: nobody guesses 256 random bits.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def load_secret_key(path: Path, configured: str | None) -> str:
    """Return the configured signing key, else the one in the file, which is made when missing.

    A file that does not hold a whole key is replaced, which voids every token signed with it.
    """
    return configured or _stored_secret_key(path) or _make_secret_key(path)


def _stored_secret_key(path: Path) -> str | None:
    try:
        content = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    if _SECRET_KEY.fullmatch(content) is None:
        logger.warning("event=secret_key_replaced reason=damaged effect=all_tokens_void")
        return None
    path.chmod(0o600)
    return content.decode()


def _make_secret_key(path: Path) -> str:
    key = secrets.token_hex(_SECRET_KEY_BYTES)
    write_durable(path, key.encode() + b"\n", mode=0o600)
    logger.info("event=secret_key_made effect=all_tokens_void")
    return key
