"""What the tests of namespaces stand on: skipped where there are none, but in CI a failure."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from tests.sandbox.conftest import Sandbox


@pytest.fixture
def space(sandbox: Sandbox) -> Sandbox:
    """Return a sandbox in namespaces."""
    ground = sandbox.supervisor.ground
    if not ground.has_namespaces:
        reason = f"no namespaces here: {ground.note or ground.error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return sandbox


@pytest.fixture
def tell(space: Sandbox) -> Callable[..., Any]:
    """Return what runs an agent that must succeed and returns its result."""

    def run(source: str, payload: Any = None, **limits: Any) -> Any:
        outcome = space.run(source, payload, **limits)
        assert outcome.reason is StopReason.RETURNED, (outcome.message, outcome.logs)
        result = outcome.details["result"]
        return result["result"] if set(result) == {"result"} else result

    return run
