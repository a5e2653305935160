"""Agents and their versions."""

from typing import Any

from anymind_lite.routes._context import authenticated, backend, current_user
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import (
    AgentCreateRequest,
    AgentSchema,
    AgentUpdateRequest,
    AgentVersionSchema,
    PageQuery,
    agent_json,
    agent_version_json,
    page_of,
)
from anymind_lite.services import agents, versions
from anymind_lite.services.agents import AgentChanges

blueprint = ApiBlueprint(
    "agents", __name__, url_prefix="/api/v1/agents", description="Agents and their versions"
)


@blueprint.route("", methods=["POST"])
@blueprint.answers(201, AgentSchema, "The new agent, a draft")
@authenticated
@blueprint.arguments(AgentCreateRequest)
def create_agent(body: dict[str, Any]) -> Any:
    """Create an agent."""
    return agent_json(agents.create_agent(current_user(), **body)), 201


@blueprint.route("", methods=["GET"])
@blueprint.answers(200, AgentSchema(many=True), "Agents, newest first")
@authenticated
@blueprint.arguments(PageQuery, location="query")
def list_agents(query: dict[str, Any]) -> Any:
    """List agents."""
    return [agent_json(row) for row in agents.list_agents(current_user(), page_of(query))]


@blueprint.route("/<id:agent_id>", methods=["GET"])
@blueprint.answers(200, AgentSchema, "The agent")
@authenticated
def get_agent(agent_id: int) -> Any:
    """Get an agent."""
    return agent_json(agents.get_agent(current_user(), agent_id))


@blueprint.route("/<id:agent_id>", methods=["PATCH"])
@blueprint.answers(200, AgentSchema, "The agent as it is now")
@authenticated
@blueprint.arguments(AgentUpdateRequest)
def update_agent(body: AgentChanges, agent_id: int) -> Any:
    """Change an agent's name or description, archive it, or end that."""
    return agent_json(agents.update_agent(current_user(), agent_id, body))


@blueprint.route("/<id:agent_id>", methods=["DELETE"])
@blueprint.answers(204, None, "The agent, its versions, executions and files are gone")
@authenticated
def delete_agent(agent_id: int) -> Any:
    """Delete an agent; its running executions are cancelled."""
    serving = backend()
    agents.delete_agent(
        current_user(),
        agent_id,
        kill_executions=serving.executor.kill_agent,
        store=serving.store,
    )
    return "", 204


@blueprint.route("/<id:agent_id>/versions", methods=["GET"])
@blueprint.answers(200, AgentVersionSchema(many=True), "Versions, newest first")
@authenticated
@blueprint.arguments(PageQuery, location="query")
def list_versions(query: dict[str, Any], agent_id: int) -> Any:
    """List the versions of an agent."""
    rows = versions.list_versions(current_user(), agent_id, page_of(query))
    return [agent_version_json(row) for row in rows]


@blueprint.route("/<id:agent_id>/versions/<id:version_id>", methods=["GET"])
@blueprint.answers(200, AgentVersionSchema, "The version")
@authenticated
def get_version(agent_id: int, version_id: int) -> Any:
    """Get a version of an agent, with its build log."""
    return agent_version_json(versions.get_version(current_user(), agent_id, version_id))
