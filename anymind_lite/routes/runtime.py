"""Executing agents, and the executions."""

from typing import Any

from flask import Response

from anymind_lite.models import Execution
from anymind_lite.routes._context import authenticated, backend, current_user
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import (
    ExecuteRequest,
    ExecutionSchema,
    ExecutionsQuery,
    execution_json,
    json_array,
    page_of,
)
from anymind_lite.services import executions

blueprint = ApiBlueprint(
    "runtime", __name__, url_prefix="/api/v1/runtime", description="Executing agents"
)


@blueprint.route("/<id:agent_id>/execute", methods=["POST"])
@blueprint.answers(201, ExecutionSchema, "The execution, completed, failed or cancelled")
@blueprint.may_answer(503)
@authenticated
@blueprint.arguments(ExecuteRequest)
def execute_agent(body: dict[str, Any], agent_id: int) -> Any:
    """Execute the latest ready version of an agent and wait for the outcome."""
    serving = backend()
    serving.disk.require()
    row = executions.execute_agent(
        current_user(), agent_id, body["payload"], executor=serving.executor
    )
    return _answer(row, 201)


@blueprint.route("/executions", methods=["GET"])
@blueprint.answers(200, ExecutionSchema(many=True), "Executions, newest first")
@authenticated
@blueprint.arguments(ExecutionsQuery, location="query")
def list_executions(query: dict[str, Any]) -> Any:
    """List executions."""
    rows = executions.iter_executions(
        current_user(), page_of(query), agent_version_id=query.get("agent_version_id")
    )
    return Response(json_array(map(execution_json, rows)), mimetype="application/json")


@blueprint.route("/executions/<id:execution_id>", methods=["GET"])
@blueprint.answers(200, ExecutionSchema, "The execution")
@authenticated
def get_execution(execution_id: int) -> Any:
    """Get an execution."""
    return _answer(executions.get_execution(current_user(), execution_id))


@blueprint.route("/executions/<id:execution_id>/cancel", methods=["POST"])
@blueprint.answers(200, ExecutionSchema, "The execution; one that was finished is unchanged")
@authenticated
def cancel_execution(execution_id: int) -> Any:
    """Cancel an execution: its processes are killed."""
    row = executions.cancel_execution(current_user(), execution_id, executor=backend().executor)
    return _answer(row)


def _answer(row: Execution, status: int = 200) -> Response:
    text = "".join(execution_json(row))
    return Response(text, status=status, mimetype="application/json")
