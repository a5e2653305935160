"""The layers: what a child gives up before agent code runs, in this order and no other.

Each layer is one small function in a file of this folder. A layer that cannot be applied raises
OSError, which fails the job: nothing ever runs with less than the table says.
"""

from collections.abc import Callable
from dataclasses import dataclass

from anymind_lite.sandbox.in_child.layers import posix
from anymind_lite.sandbox.policy import Limits


@dataclass(frozen=True)
class Confinement:
    """What the layers need to know of one job."""

    limits: Limits
    scratch_dir: str
    zygote_pid: int


@dataclass(frozen=True)
class Layer:
    """One restriction that the kernel enforces; `promise` is what it keeps an agent from."""

    name: str
    promise: str
    apply: Callable[[Confinement], None]


LAYERS = (
    Layer("session", "no terminal; one signal ends the whole group", posix.enter_session),
    Layer("descriptors", "no file or socket of the server", posix.close_descriptors),
    Layer("parent_death", "does not outlive the zygote", posix.die_with_zygote),
    Layer("rlimits", "bounded CPU, memory, file size, open files", posix.limit_resources),
    Layer("no_new_privs", "set-uid programs give nothing", posix.refuse_new_privileges),
    Layer("not_dumpable", "no core files; not traceable", posix.refuse_tracing),
    Layer("environment", "no variable of the server", posix.clean_environment),
)
