"""Executing agents, and the executions."""

from typing import Any

from flask import Response, request

from anymind_lite.models import UNFINISHED, Execution
from anymind_lite.routes import _idempotency, _prefer
from anymind_lite.routes._context import authenticated, backend, current_user
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import (
    ExecuteRequest,
    ExecutionSchema,
    ExecutionsQuery,
    PollQuery,
    execution_json,
    filter_of,
    json_array,
    page_of,
)
from anymind_lite.routes._urls import execution_url
from anymind_lite.services import executions

blueprint = ApiBlueprint(
    "runtime", __name__, url_prefix="/api/v1/runtime", description="Executing agents"
)


@blueprint.route("/<id:agent_id>/execute", methods=["POST"])
@blueprint.answers(201, ExecutionSchema, "The execution, completed, failed or cancelled")
@blueprint.answers(202, ExecutionSchema, "The execution, not waited for: `Location` says where")
@blueprint.doc(parameters=[_prefer.PARAMETER, _idempotency.PARAMETER])
@blueprint.may_answer(409, 429, 503)
@authenticated
@blueprint.arguments(ExecuteRequest)
def execute_agent(body: dict[str, Any], agent_id: int) -> Any:
    """Execute the latest ready version of an agent, and wait for the outcome unless told not to."""
    preference = _prefer.read_preference(request.headers.get("Prefer", ""))
    made = executions.execute_agent(
        current_user(),
        agent_id,
        body["payload"],
        executor=backend().executor,
        idempotency_key=_idempotency.read_key(request),
        patience_seconds=preference.patience_seconds,
    )
    # Who would not wait is answered alike, however soon the end came; but not with an old one.
    is_at_once = preference.patience_seconds == 0 and not made.is_replay
    response = _answer(made.row, 202 if is_at_once or made.row.status in UNFINISHED else 201)
    if preference.applied:
        response.headers["Preference-Applied"] = preference.applied
        response.headers["Location"] = execution_url(made.row.id)
    return _idempotency.mark_replay(response) if made.is_replay else response


@blueprint.route("/executions", methods=["GET"])
@blueprint.answers(200, ExecutionSchema(many=True), "Executions, newest first")
@authenticated
@blueprint.arguments(ExecutionsQuery, location="query")
def list_executions(query: dict[str, Any]) -> Any:
    """List executions, those that wait or run included."""
    rows = executions.iter_executions(current_user(), page_of(query), filter_of(query))
    return Response(json_array(map(execution_json, rows)), mimetype="application/json")


@blueprint.route("/executions/<id:execution_id>", methods=["GET"])
@blueprint.answers(200, ExecutionSchema, "The execution")
@authenticated
@blueprint.arguments(PollQuery, location="query")
def get_execution(query: dict[str, Any], execution_id: int) -> Any:
    """Get an execution; with `wait`, when it has ended."""
    row, has_waited = executions.poll_execution(
        current_user(), execution_id, query["wait"], executor=backend().executor
    )
    response = _answer(row)
    if not has_waited:
        response.headers["Retry-After"] = "1"
    return response


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
