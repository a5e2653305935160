"""The control group of a run, which the server has made and limited.

Runs in the child, first of all layers: what the others use is counted too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anymind_lite.sandbox.in_child.layers import Confinement


def join(confinement: Confinement) -> None:
    """Move into the group; the kernel asks who opened the descriptor, not who writes to it."""
    os.write(confinement.cgroup_fd, b"0")
