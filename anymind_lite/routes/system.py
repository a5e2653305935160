"""The server itself, for who is signed in."""

from typing import Any

from anymind_lite.routes._context import authenticated, backend
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import SandboxSchema, sandbox_json
from anymind_lite.sandbox.policy import Tier
from anymind_lite.services import system

blueprint = ApiBlueprint(
    "system", __name__, url_prefix="/api/v1/system", description="The server itself"
)


@blueprint.route("/sandbox", methods=["GET"])
@blueprint.answers(200, SandboxSchema, "What holds agents back")
@authenticated
def get_sandbox() -> Any:
    """Tell how agents are held back on this machine."""
    serving = backend()
    return sandbox_json(system.sandbox_state(serving.sandbox, Tier(serving.settings.min_tier)))
