"""API keys. An API key is not enough to make, list or revoke them."""

from typing import Any

from anymind_lite.routes._context import backend, current_user, token_required
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import (
    ApiKeyCreatedSchema,
    ApiKeyCreateRequest,
    ApiKeySchema,
    api_key_json,
    created_api_key_json,
)
from anymind_lite.services import api_keys

blueprint = ApiBlueprint(
    "api-keys",
    __name__,
    url_prefix="/api/v1/api-keys",
    description="Long-lived credentials for programs",
)


@blueprint.route("", methods=["POST"])
@blueprint.answers(201, ApiKeyCreatedSchema, "The key, shown this once")
@token_required
@blueprint.arguments(ApiKeyCreateRequest)
def create_api_key(body: dict[str, Any]) -> Any:
    """Create an API key."""
    row, key = api_keys.create_api_key(current_user(), body["name"])
    return created_api_key_json(row, key), 201


@blueprint.route("", methods=["GET"])
@blueprint.answers(200, ApiKeySchema(many=True), "All keys, newest first, revoked ones too")
@token_required
def list_api_keys() -> Any:
    """List API keys."""
    rows = api_keys.list_api_keys(current_user(), key_usage=backend().key_usage)
    return [api_key_json(row) for row in rows]


@blueprint.route("/<id:api_key_id>", methods=["DELETE"])
@blueprint.answers(204, None, "The key is worthless from now on")
@token_required
def revoke_api_key(api_key_id: int) -> Any:
    """Revoke an API key."""
    api_keys.revoke_api_key(current_user(), api_key_id)
    return "", 204
