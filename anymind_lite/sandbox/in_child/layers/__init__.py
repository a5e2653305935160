"""The layers: what a child gives up before agent code runs, in this order and no other.

Each layer is one small function in a file of this folder. A layer that cannot be applied raises
OSError, which fails the job: nothing ever runs with less than the table says. Layers are left out
where the machine lacks what they are made of, which the server knows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from anymind_lite.sandbox.in_child.layers import (
    linux_cgroup,
    linux_landlock,
    linux_namespaces,
    linux_seccomp,
    posix,
)
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Need


@dataclass(frozen=True)
class Walls:
    """What the machine offers to build walls of; found out once, before the zygote forks.

    `landlock_abi` is 0 where there is none. `readable` and `devices` are the files of Python and
    the harmless devices, as Landlock is to open them.
    """

    has_namespaces: bool = False
    landlock_abi: int = 0
    filters_calls: bool = False
    has_cgroups: bool = False
    readable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confinement:
    """What the layers need to know of one job.

    `parent_pid` is the zygote as this process sees it, 0 from a pid namespace of the run's own,
    which has an init. `code_dir` is empty where there is no agent. In namespaces `proc_fd` is the
    host's /proc, to be closed, and `code_name` names the code below CODE_PARENT. A template, and
    what clones itself from it, has a pid namespace with an init, but as a run without one.
    """

    limits: Limits
    scratch_dir: str
    parent_pid: int
    walls: Walls
    code_dir: str = ""
    code_name: str = ""
    cgroup_fd: int = -1
    proc_fd: int = -1
    has_init: bool = False
    is_template: bool = False

    @property
    def is_in_namespaces(self) -> bool:
        """Whether the zygote has namespaces of its own."""
        return self.walls.has_namespaces

    def has(self, need: Need) -> bool:
        """Tell whether what a layer is made of is there for this job."""
        return {
            Need.NOTHING: True,
            Need.NAMESPACES: self.walls.has_namespaces,
            Need.INIT: self.walls.has_namespaces and self.has_init,
            Need.LANDLOCK: self.walls.landlock_abi > 0,
            Need.SECCOMP: self.walls.filters_calls,
            Need.CGROUP: self.walls.has_cgroups,
        }[need]


@dataclass(frozen=True)
class Layer:
    """One restriction that the kernel enforces; `promise` is what it keeps an agent from."""

    name: str
    promise: str
    apply: Callable[[Confinement], None]
    need: Need = Need.NOTHING


LAYERS = (
    Layer(
        "cgroup",
        "memory and processes of the whole run bounded together",
        linux_cgroup.join,
        Need.CGROUP,
    ),
    Layer("descriptors", "no file or socket of the server", posix.close_descriptors),
    Layer(
        "mounts",
        "no file but Python, its own code and an empty scratch folder; no network",
        linux_namespaces.own_mounts,
        Need.NAMESPACES,
    ),
    Layer(
        "user_namespace",
        "not traceable by other runs; undoes no mount; processes and threads counted per run",
        linux_namespaces.own_user_namespace,
        Need.NAMESPACES,
    ),
    Layer(
        "capabilities",
        "no privilege, not even over itself",
        linux_namespaces.drop_capabilities,
        Need.NAMESPACES,
    ),
    Layer(
        "processes",
        "sees and signals its own processes alone, and all end with it",
        linux_namespaces.confirm_own_processes,
        Need.INIT,
    ),
    Layer("session", "no terminal; one signal ends the whole group", posix.enter_session),
    Layer("parent_death", "does not outlive the zygote", posix.die_with_zygote),
    Layer("rlimits", "bounded CPU, memory, file size, open files", posix.limit_resources),
    Layer("no_new_privs", "set-uid programs give nothing", posix.refuse_new_privileges),
    Layer("not_dumpable", "no core files; not traceable", posix.refuse_tracing),
    Layer(
        "files",
        "opens no file but Python, its own code and its scratch folder",
        linux_landlock.restrict_files,
        Need.LANDLOCK,
    ),
    Layer(
        "system_calls",
        "no sockets, signals to others, new processes, tracing, mounts, keys",
        linux_seccomp.refuse_system_calls,
        Need.SECCOMP,
    ),
    Layer("environment", "no variable of the server", posix.clean_environment),
)


# What a template leaves to each of its clones: the zygote gives that a user namespace at birth.
_NOT_OF_TEMPLATES = {"user_namespace"}
# What a clone does again, or by itself: it has a namespace full of capabilities, lost its parent
# death signal with the clone, and may do less than the template in its limits and its calls.
_OF_CLONES = ("capabilities", "parent_death", "rlimits", "not_dumpable", "system_calls")


def layers_for(confinement: Confinement) -> list[Layer]:
    """Return the layers that this job takes, in order."""
    layers = [layer for layer in LAYERS if confinement.has(layer.need)]
    if confinement.is_template:
        return [layer for layer in layers if layer.name not in _NOT_OF_TEMPLATES]
    return layers


def layers_for_clone(confinement: Confinement) -> list[Layer]:
    """Return the layers that a clone of a template puts up by itself, in order."""
    return [one for one in LAYERS if one.name in _OF_CLONES and confinement.has(one.need)]
