"""Uploading artifacts and downloading them again."""

from typing import Any

from flask import jsonify, request, send_file

from anymind_lite.routes import _idempotency
from anymind_lite.routes._bodies import check_upload
from anymind_lite.routes._context import authenticated, backend, current_user
from anymind_lite.routes._multipart import read_file_part
from anymind_lite.routes._openapi import ApiBlueprint
from anymind_lite.routes._schemas import AgentVersionSchema, agent_version_json
from anymind_lite.services import agents, versions

blueprint = ApiBlueprint(
    "uploads", __name__, url_prefix="/api/v1/uploads", description="Artifacts of agents"
)

_UPLOAD_BODY = {
    "required": True,
    "description": "The agent's project folder as .tar.gz",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "contentMediaType": "application/gzip",
                        "format": "binary",
                        "description": "A .tar.gz archive with anymind.yaml",
                    }
                },
            }
        }
    },
}
_DOWNLOAD = {
    "200": {
        "description": "The archive, as it was uploaded",
        "content": {
            "application/gzip": {
                "schema": {
                    "type": "string",
                    "contentMediaType": "application/gzip",
                    "format": "binary",
                }
            }
        },
    }
}


@blueprint.route("/agent/<id:agent_id>", methods=["POST"])
@blueprint.answers(201, AgentVersionSchema, "The new version; its build is queued")
@blueprint.doc(requestBody=_UPLOAD_BODY, parameters=[_idempotency.PARAMETER])
@authenticated
def upload_artifact(agent_id: int) -> Any:
    """Upload an artifact: a new version of the agent."""
    serving, user = backend(), current_user()
    agents.get_agent(user, agent_id)  # before a byte of the body is looked at
    check_upload(request.content_length or 0, serving.settings.upload_max_bytes)
    serving.upload_disk.require(request.content_length or 0)
    part = read_file_part(request, "file")
    made = versions.create_version(
        user,
        agent_id,
        filename=part.filename,
        chunks=part.chunks,
        store=serving.store,
        build_queue=serving.build_queue,
        idempotency_key=_idempotency.read_key(request),
    )
    response = jsonify(agent_version_json(made.row))
    response.status_code = 201
    return _idempotency.mark_replay(response) if made.is_replay else response


@blueprint.route("/<path:filepath>", methods=["GET"])
@blueprint.answers(200, None, "The archive, as it was uploaded")
@blueprint.doc(responses=_DOWNLOAD)
@authenticated
def download_artifact(filepath: str) -> Any:
    """Download an artifact."""
    path = versions.get_artifact(current_user(), filepath, store=backend().store)
    return send_file(path, mimetype="application/gzip", as_attachment=True, download_name=path.name)
