"""Who tries: as root both root and an unprivileged user, else whoever runs the tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.layers.children import NOBODY, Identity

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
