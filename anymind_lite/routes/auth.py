"""Registering, logging in, and who is signed in."""

from datetime import timedelta
from typing import Any

from anymind_lite.clock import utc_now
from anymind_lite.credentials import create_access_token
from anymind_lite.routes._context import backend, current_user, token_required
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import (
    LoginRequest,
    RegisterRequest,
    TokenSchema,
    UserSchema,
    token_json,
    user_json,
)
from anymind_lite.services import accounts

blueprint = ApiBlueprint(
    "auth", __name__, url_prefix="/api/v1/auth", description="Accounts and log-in"
)


@blueprint.route("/register", methods=["POST"])
@blueprint.answers(201, UserSchema, "The new account")
@blueprint.may_answer(429)
@blueprint.arguments(RegisterRequest)
def register(body: dict[str, Any]) -> Any:
    """Register a new user."""
    user = accounts.register(accounts.Registration(**body), passwords=backend().passwords)
    return user_json(user), 201


@blueprint.route("/login", methods=["POST"])
@blueprint.answers(200, TokenSchema, "An access token")
@blueprint.may_answer(401, 403, 429)
@blueprint.arguments(LoginRequest)
def login(body: dict[str, Any]) -> Any:
    """Log in and get an access token."""
    serving = backend()
    user = accounts.authenticate(body["username"], body["password"], passwords=serving.passwords)
    token = create_access_token(
        user.id,
        secret_key=serving.secret_key,
        algorithm=serving.settings.algorithm,
        lifetime=timedelta(minutes=serving.settings.access_token_expire_minutes),
        now=utc_now(),
    )
    return token_json(token)


@blueprint.route("/me", methods=["GET"])
@blueprint.answers(200, UserSchema, "The account")
@token_required
def get_me() -> Any:
    """Get the user who is signed in."""
    return user_json(current_user())
