"""What Schemathesis must know of this API: a module that its command loads, no test itself."""

import json
import os
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.transport.serialization import Binary

from tests.live_server import pack

# The agent with a ready version and its artifact: without them execute and download stay untried.
_AGENT_ID = os.environ["FUZZED_AGENT_ID"]
_OTHER_AGENT_ID = os.environ["FUZZED_OTHER_AGENT_ID"]
_ARTIFACT = os.environ["FUZZED_ARTIFACT"]


@schemathesis.check
def error_is_one_sentence(_: CheckContext, response: Response, __: Case) -> None:
    """Every error of every address, known or not, is `{"detail": "<one string>"}`."""
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == ["application/json"], "not JSON"
    body = json.loads(response.content)
    assert list(body) == ["detail"], "not one detail"
    assert isinstance(body["detail"], str), "the detail is no string"
    assert body["detail"].strip(), "the detail is empty"


@schemathesis.check
class EveryOperationSucceeds:
    """Fuzzing that only ever sees errors proves little: each operation must succeed at times."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.succeeded: set[str] = set()

    def after_response(self, _: CheckContext, response: Response, case: Case) -> None:
        if case.method.upper() != case.operation.method.upper():
            return  # OPTIONS and other methods are tried at each address too
        self.tried.add(case.operation.label)
        if response.status_code < 300:
            self.succeeded.add(case.operation.label)

    def after_run(self, _: CheckContext) -> None:
        assert self.tried == self.succeeded, sorted(self.tried - self.succeeded)


@schemathesis.hook
def before_load_schema(_: HookContext, raw_schema: dict[str, Any]) -> None:
    """Name uploaded files as archives are named; no schema can say it."""
    upload = raw_schema["paths"]["/api/v1/uploads/agent/{agent_id}"]["post"]
    header = {"example": 'form-data; name="file"; filename="agent.tar.gz"'}
    form = upload["requestBody"]["content"]["multipart/form-data"]
    form["encoding"] = {"file": {"headers": {"Content-Disposition": header}}}


@schemathesis.hook
def before_call(_: HookContext, case: Case, __: dict[str, Any]) -> None:
    """Steer a request where no schema can."""
    _spare_agent(case)
    _pack_file(case)


def _spare_agent(case: Case) -> None:
    """Have another agent deleted or archived than the one that can be executed."""
    parameters = case.path_parameters or {}
    if case.method in ("DELETE", "PATCH") and str(parameters.get("agent_id")) == _AGENT_ID:
        parameters["agent_id"] = int(_OTHER_AGENT_ID)


def _pack_file(case: Case) -> None:
    """Send two of three files as the manifest of an archive: others are refused at the door."""
    content = case.body.get("file") if isinstance(case.body, dict) else None
    if isinstance(content, Binary) and len(content.data) % 3:
        case.body = {**case.body, "file": Binary(pack({"anymind.yaml": content.data}))}


@schemathesis.hook
def map_path_parameters(
    _: HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Ask for the artifact that exists every other time."""
    path = (path_parameters or {}).get("filepath")
    if isinstance(path, str) and len(path) % 2:
        return {"filepath": _ARTIFACT}
    return path_parameters
