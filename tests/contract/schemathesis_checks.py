"""What Schemathesis must know of this API: a module that its command loads, no test itself."""

import json
import os
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

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
        self.tried.add(case.operation.label)
        if response.status_code < 300:
            self.succeeded.add(case.operation.label)

    def after_run(self, _: CheckContext) -> None:
        assert self.tried == self.succeeded, sorted(self.tried - self.succeeded)


@schemathesis.hook
def before_call(_: HookContext, case: Case, __: dict[str, Any]) -> None:
    """Spare the agent that can be executed: another one is deleted or archived."""
    parameters = case.path_parameters or {}
    if case.method in ("DELETE", "PATCH") and str(parameters.get("agent_id")) == _AGENT_ID:
        parameters["agent_id"] = int(_OTHER_AGENT_ID)


@schemathesis.hook
def map_path_parameters(
    _: HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Ask for the artifact that exists every other time."""
    path = (path_parameters or {}).get("filepath")
    if isinstance(path, str) and len(path) % 2:
        return {"filepath": _ARTIFACT}
    return path_parameters
