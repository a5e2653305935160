"""The server itself, for who is signed in."""

from typing import Any

from anymind_lite.routes._context import authenticated, backend
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import SandboxSchema
from anymind_lite.sandbox.in_server.probe import sandbox_state

blueprint = ApiBlueprint(
    "system", __name__, url_prefix="/api/v1/system", description="The server itself"
)


@blueprint.route("/sandbox", methods=["GET"])
@blueprint.answers(200, SandboxSchema, "What holds agents back")
@authenticated
def get_sandbox() -> Any:
    """Tell how agents are held back on this machine."""
    return sandbox_state(backend().sandbox).to_json()
