"""The layers: what a child gives up before agent code runs, in this order and no other.

Each layer is one small function in a file of this folder. A layer that cannot be applied raises
OSError, which fails the job: nothing ever runs with less than the table says. Those that need the
namespaces made at the start are left out where the machine has none, which the server knows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from anymind_lite.sandbox.in_child.layers import linux_namespaces, linux_seccomp, posix
from anymind_lite.sandbox.policy import Limits


@dataclass(frozen=True)
class Confinement:
    """What the layers need to know of one job.

    `parent_pid` is the zygote as this process sees it, 0 from a pid namespace of the run's own,
    which has an init. In namespaces `proc_fd` is the host's /proc, to be closed, and `code_name`
    names the code below CODE_PARENT.
    """

    limits: Limits
    scratch_dir: str
    parent_pid: int
    code_name: str = ""
    proc_fd: int = -1
    has_init: bool = False

    @property
    def is_in_namespaces(self) -> bool:
        """Whether the zygote has namespaces of its own."""
        return self.proc_fd >= 0


@dataclass(frozen=True)
class Layer:
    """One restriction that the kernel enforces; `promise` is what it keeps an agent from."""

    name: str
    promise: str
    apply: Callable[[Confinement], None]
    needs_namespaces: bool = False
    is_offered: Callable[[], bool] = lambda: True


LAYERS = (
    Layer("descriptors", "no file or socket of the server", posix.close_descriptors),
    Layer(
        "mounts",
        "no file but Python, its own code and an empty scratch folder; no network",
        linux_namespaces.own_mounts,
        needs_namespaces=True,
    ),
    Layer(
        "user_namespace",
        "not traceable by other runs; undoes no mount; processes counted per run",
        linux_namespaces.own_user_namespace,
        needs_namespaces=True,
    ),
    Layer(
        "capabilities",
        "no privilege, not even over itself",
        linux_namespaces.drop_capabilities,
        needs_namespaces=True,
    ),
    Layer(
        "processes",
        "sees and signals its own processes alone, and all end with it",
        linux_namespaces.confirm_own_processes,
        needs_namespaces=True,
    ),
    Layer("session", "no terminal; one signal ends the whole group", posix.enter_session),
    Layer("parent_death", "does not outlive the zygote", posix.die_with_parent),
    Layer("rlimits", "bounded CPU, memory, file size, open files", posix.limit_resources),
    Layer("no_new_privs", "set-uid programs give nothing", posix.refuse_new_privileges),
    Layer("not_dumpable", "no core files; not traceable", posix.refuse_tracing),
    Layer(
        "system_calls",
        "no sockets, tracing, mounts, keys or other calls that walls get holes by",
        linux_seccomp.refuse_system_calls,
        needs_namespaces=True,
        is_offered=linux_seccomp.is_offered,
    ),
    Layer("environment", "no variable of the server", posix.clean_environment),
)


def layers_for(confinement: Confinement) -> list[Layer]:
    """Return the layers that this machine takes, in order."""
    offered = [one for one in LAYERS if one.is_offered()]
    return [one for one in offered if confinement.is_in_namespaces or not one.needs_namespaces]
