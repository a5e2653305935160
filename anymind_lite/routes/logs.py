"""What happened to an agent, and in an execution."""

from typing import Any

from anymind_lite.routes._context import authenticated, current_user
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import LogEntrySchema, PageQuery, log_entry_json, page_of
from anymind_lite.services import logs

blueprint = ApiBlueprint(
    "logs", __name__, url_prefix="/api/v1/logs", description="Logs of builds and executions"
)


@blueprint.route("/<id:agent_id>", methods=["GET"])
@blueprint.answers(200, LogEntrySchema(many=True), "Log entries, newest first")
@authenticated
@blueprint.arguments(PageQuery, location="query")
def list_agent_logs(query: dict[str, Any], agent_id: int) -> Any:
    """List what happened to an agent: its builds and executions."""
    entries = logs.list_agent_logs(current_user(), agent_id, page_of(query))
    return [log_entry_json(entry) for entry in entries]


@blueprint.route("/executions/<id:execution_id>/logs", methods=["GET"])
@blueprint.answers(200, LogEntrySchema(many=True), "Log entries, newest first")
@authenticated
@blueprint.arguments(PageQuery, location="query")
def list_execution_logs(query: dict[str, Any], execution_id: int) -> Any:
    """List what happened in an execution."""
    entries = logs.list_execution_logs(current_user(), execution_id, page_of(query))
    return [log_entry_json(entry) for entry in entries]
