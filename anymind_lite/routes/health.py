"""Whether the server answers."""

from typing import Any

from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import HealthSchema

blueprint = ApiBlueprint("health", __name__, description="Whether the server answers")


@blueprint.route("/health", methods=["GET"])
@blueprint.answers(200, HealthSchema, "The server answers")
def get_health() -> Any:
    """Check that the server answers; touches neither database nor disk."""
    return {"status": "healthy"}
