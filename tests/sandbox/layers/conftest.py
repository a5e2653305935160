"""What the tests of layers stand on: who tries, and a sandbox in namespaces."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from tests.sandbox.conftest import Sandbox
from tests.sandbox.layers.children import NOBODY, Identity

# As root both root and an unprivileged user, else whoever runs the tests.
IDENTITIES = {"root": None, "nobody": NOBODY} if os.geteuid() == 0 else {"self": None}


@pytest.fixture(params=list(IDENTITIES.values()), ids=list(IDENTITIES))
def who(request: pytest.FixtureRequest) -> Identity:
    return Identity(request.param)


@pytest.fixture
def folder(who: Identity) -> Iterator[Path]:
    """A folder of that user's own; pytest's lie below one that others cannot pass."""
    path = Path(tempfile.mkdtemp(prefix="layers-")).resolve()
    if who.uid is not None:
        os.chown(path, who.uid, who.uid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def space(sandbox: Sandbox) -> Sandbox:
    """A sandbox in namespaces: skipped where there are none, but in CI a failure."""
    ground = sandbox.supervisor.ground
    if not ground.has_namespaces:
        reason = f"no namespaces here: {ground.refusals} {ground.error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return sandbox


@pytest.fixture
def tell(space: Sandbox) -> Callable[..., Any]:
    """What runs an agent that must succeed and returns its result."""

    def run(source: str, payload: Any = None, **limits: Any) -> Any:
        outcome = space.run(source, payload, **limits)
        assert outcome.reason is StopReason.RETURNED, (outcome.message, outcome.logs)
        result = outcome.details["result"]
        return result["result"] if set(result) == {"result"} else result

    return run
