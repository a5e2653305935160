"""Whether the server answers, and whether it can do its work."""

from typing import Any

from anymind_lite.routes._context import backend
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import HealthSchema, ReadinessSchema, readiness_json

blueprint = ApiBlueprint("health", __name__, description="Whether the server answers")


@blueprint.route("/health", methods=["GET"])
@blueprint.answers(200, HealthSchema, "The server answers")
def get_health() -> Any:
    """Check that the server answers; touches neither database nor disk."""
    return {"status": "healthy"}


@blueprint.route("/ready", methods=["GET"])
@blueprint.answers(200, ReadinessSchema, "The server can do its work")
@blueprint.alt_response(503, schema=ReadinessSchema, description="Something is not ok")
def get_ready() -> Any:
    """Check that every part of the server can do its work now."""
    found = backend().readiness()
    return readiness_json(found), 200 if found.is_ready else 503
