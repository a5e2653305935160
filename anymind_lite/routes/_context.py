"""What a request runs in: the backend, and who is signed in."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from flask import current_app, g, request
from flask_smorest import Blueprint

from anymind_lite.credentials import read_access_token
from anymind_lite.errors import NotAllowed, NotAuthenticated
from anymind_lite.models import User
from anymind_lite.routes._bodies import NOT_AUTHENTICATED
from anymind_lite.routes._documented import called, documented
from anymind_lite.services import accounts, api_keys

if TYPE_CHECKING:
    from anymind_lite.backend import Backend

EXTENSION = "anymind"

# How the OpenAPI document names the two ways to sign in.
API_KEY_SCHEME = "ApiKey"
BEARER_SCHEME = "Bearer"

P = ParamSpec("P")
R = TypeVar("R")


def backend() -> "Backend":
    """Return the backend that this application serves."""
    return cast("Backend", current_app.extensions[EXTENSION])


def current_user() -> User:
    """Return who is signed in; only for views under `authenticated` or `token_required`."""
    return cast(User, g.user)


def authenticated(view: Callable[P, R]) -> Callable[P, R]:
    """Let in whoever sends a valid API key, or else a valid access token."""
    return _guard(view, _sign_in, [{API_KEY_SCHEME: []}, {BEARER_SCHEME: []}])


def token_required(view: Callable[P, R]) -> Callable[P, R]:
    """Let in whoever sends a valid access token; an API key alone is not enough.

    A leaked key must not be able to make itself successors.
    """
    return _guard(view, _sign_in_by_token, [{BEARER_SCHEME: []}])


def _guard(
    view: Callable[P, R], sign_in: Callable[[], User], security: list[dict[str, Any]]
) -> Callable[P, R]:
    answer = called(view)

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        g.user = accounts.require_active(sign_in())
        return cast(R, answer(*args, **kwargs))

    return cast(Callable[P, R], documented(guarded, Blueprint.doc(security=security)))


def _sign_in() -> User:
    key = request.headers.get("X-API-Key")
    if not key:
        return _user_of_token(_bearer_token() or _refuse_anonymous())
    user = api_keys.find_user_by_key(key, key_usage=backend().key_usage)
    if user is None:
        raise NotAuthenticated("Invalid API key")
    return user


def _sign_in_by_token() -> User:
    token = _bearer_token()
    if token is None and request.headers.get("X-API-Key"):
        raise NotAllowed(
            "An API key is not enough here: log in and send the header "
            "Authorization: Bearer <access token>"
        )
    return _user_of_token(token or _refuse_anonymous())


def _refuse_anonymous() -> str:
    raise NotAuthenticated(NOT_AUTHENTICATED)


def _bearer_token() -> str | None:
    """Return the token of the Authorization header, if that is of the Bearer kind."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    # The scheme's name has no case (RFC 9110, section 11.1).
    return token.strip() or None if scheme.lower() == "bearer" else None


def _user_of_token(token: str) -> User:
    serving = backend()
    user_id = read_access_token(
        token, secret_key=serving.secret_key, algorithm=serving.settings.algorithm
    )
    user = accounts.find_user(user_id)
    if user is None:
        raise NotAuthenticated("Invalid token")
    return user
