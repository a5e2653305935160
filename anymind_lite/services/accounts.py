"""Accounts: registering, logging in, finding who is signed in."""

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

from peewee import IntegrityError

from anymind_lite.clock import utc_now
from anymind_lite.credentials import MAX_PASSWORD_BYTES, PasswordHasher
from anymind_lite.database import PreparedSelect, write_transaction
from anymind_lite.errors import InvalidInput, NotAllowed, NotAuthenticated
from anymind_lite.models import User
from anymind_lite.services.names import has_control_characters

MAX_USERNAME_CHARS = 64
MIN_PASSWORD_CHARS = 8
MAX_FULL_NAME_CHARS = 200

_MAX_EMAIL_CHARS = 254  # RFC 5321, section 4.5.3.1.3
_MAX_EMAIL_LOCAL_CHARS = 64  # section 4.5.3.1.1
_EMAIL_LOCAL = re.compile(r"[^\s@\"(),:;<>\[\\\].]+(\.[^\s@\"(),:;<>\[\\\].]+)*")
_DOMAIN = re.compile(r"([^\W_]([\w-]{0,61}[^\W_])?\.)+[^\W_]([\w-]{0,61}[^\W_])?")

_USER_OF_ID = PreparedSelect(User.select().where(User.id == 0))


@dataclass(frozen=True)
class Registration:
    """What a person sends to register; `register` checks it."""

    email: str
    username: str
    password: str
    full_name: str | None = None


def register(registration: Registration, *, passwords: PasswordHasher) -> User:
    """Create an account; raises InvalidInput, also when e-mail or username are taken."""
    email = _checked_email(registration.email)
    username = _checked_username(registration.username)
    full_name = _checked_full_name(registration.full_name)
    _check_password(registration.password)
    _refuse_taken(email, username)
    password_hash = passwords.hash(registration.password)
    try:
        with write_transaction():
            return User.create(  # type: ignore[no-any-return]
                email=email,
                username=username,
                full_name=full_name,
                password_hash=password_hash,
                created_at=utc_now(),
            )
    except IntegrityError as exc:
        _explain_conflict(exc)


def authenticate(username: str, password: str, *, passwords: PasswordHasher) -> User:
    """Return the user whose name and password these are, at equal cost whether the name is known.

    Raises NotAuthenticated, or NotAllowed when the account is deactivated.
    """
    user = User.get_or_none(User.username == unicodedata.normalize("NFC", username))
    if user is None:
        passwords.burn(password)
        raise NotAuthenticated("Incorrect username or password")
    if not passwords.verify(password, user.password_hash):
        raise NotAuthenticated("Incorrect username or password")
    return require_active(user)


def find_user(user_id: int) -> User | None:
    """Return the user with this id, active or not."""
    user: User | None = _USER_OF_ID.find(user_id)
    return user


def require_active(user: User) -> User:
    """Return the user unchanged; raises NotAllowed when the account is deactivated."""
    if not user.is_active:
        raise NotAllowed("This account is deactivated")
    return user


def _checked_email(email: str) -> str:
    local, _, domain = email.rpartition("@")
    is_well_formed = (
        len(email) <= _MAX_EMAIL_CHARS
        and len(local) <= _MAX_EMAIL_LOCAL_CHARS
        and email.isprintable()
        and _EMAIL_LOCAL.fullmatch(local) is not None
        and _DOMAIN.fullmatch(domain) is not None
    )
    if not is_well_formed:
        raise InvalidInput("email must be an address such as user@example.com")
    return unicodedata.normalize("NFC", email)


def _checked_username(username: str) -> str:
    # One spelling: a name typed on another system may hold the same letters composed differently.
    username = unicodedata.normalize("NFC", username)
    if not 1 <= len(username) <= MAX_USERNAME_CHARS:
        raise InvalidInput(f"username must have 1 to {MAX_USERNAME_CHARS} characters")
    if " " in username or not username.isprintable():
        raise InvalidInput("username must not contain spaces or control characters")
    return username


def _checked_full_name(full_name: str | None) -> str | None:
    if full_name is None:
        return None
    if len(full_name) > MAX_FULL_NAME_CHARS:
        raise InvalidInput(f"full_name must have at most {MAX_FULL_NAME_CHARS} characters")
    if has_control_characters(full_name):
        raise InvalidInput("full_name must not contain control characters")
    return full_name


def _check_password(password: str) -> None:
    if len(password) < MIN_PASSWORD_CHARS:
        raise InvalidInput(f"password must have at least {MIN_PASSWORD_CHARS} characters")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidInput(f"password must have at most {MAX_PASSWORD_BYTES} bytes in UTF-8")


def _refuse_taken(email: str, username: str) -> None:
    """Refuse before the costly hash; the unique indexes decide when two requests race."""
    if User.select().where(User.email == email).exists():
        raise InvalidInput("This email is already registered")
    if User.select().where(User.username == username).exists():
        raise InvalidInput("This username is already taken")


def _explain_conflict(error: IntegrityError) -> NoReturn:
    # SQLite names the column: "UNIQUE constraint failed: user.email".
    if "user.email" in str(error):
        raise InvalidInput("This email is already registered") from error
    if "user.username" in str(error):
        raise InvalidInput("This username is already taken") from error
    raise error
