"""What the zygote can stand on, found by trying each wall in a throw-away child.

Runs in the stub. What the machine refuses in a known way is left out, and told with the reason; any
other failure lets nothing run.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from anymind_lite.sandbox.in_child.layers import (
    LAYERS,
    Confinement,
    Walls,
    linux_landlock,
    linux_seccomp,
    posix,
)
from anymind_lite.sandbox.in_zygote.attempts import Refused, SetUpFailed, attempt
from anymind_lite.sandbox.in_zygote.root_folder import top_folders
from anymind_lite.sandbox.in_zygote.spaces import become_sandbox_user, probe
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import SANDBOX_UID, Ground, LayerFact, Need

_NOBODY = Confinement(Limits(), "", 0, Walls())


def find_ground(why_no_cgroups: str) -> Ground:
    """Try every wall and tell which stand; without namespaces a root server's stub leaves root.

    What the server says of cgroups is "" where it makes them.
    """
    ground = Ground(os.getpid(), agent_uid=SANDBOX_UID if os.geteuid() == 0 else os.geteuid())
    no_cgroups = _without(ground, Need.CGROUP, why_no_cgroups)
    ground = no_cgroups or replace(ground, has_cgroups=True)
    try:
        ground = _with_landlock(ground)
        ground = _with_filter(ground)
        ground = _with_namespaces(ground)
        if not ground.has_namespaces and os.geteuid() == 0:
            _leave_root(ground)
    except SetUpFailed as exc:
        return replace(ground, error=str(exc))
    return replace(ground, layers=_facts(ground))


def _leave_root(ground: Ground) -> None:
    """Become the sandbox's user among the host's files. Raises SetUpFailed."""
    try:
        become_sandbox_user(os.getcwd())
    except OSError as exc:
        why = ground.refusals[Need.NAMESPACES]
        raise SetUpFailed(f"{exc.strerror or exc}; there are no namespaces: {why}") from exc


def walls_of(ground: Ground) -> Walls:
    """Return what a job's walls are made of; call it where the zygote will stand."""
    walls = _bare_walls(ground)
    if not ground.landlock_abi:
        return walls
    readable = top_folders() if ground.has_namespaces else linux_landlock.runtime_paths()
    return replace(walls, readable=readable, devices=linux_landlock.device_paths())


def _bare_walls(ground: Ground) -> Walls:
    return Walls(
        ground.has_namespaces, ground.landlock_abi, ground.filters_calls, ground.has_cgroups
    )


def _with_landlock(ground: Ground) -> Ground:
    abi = linux_landlock.supported_abi()

    def restrict() -> None:
        posix.refuse_new_privileges(_NOBODY)
        linux_landlock.restrict(readable=(), writable=(), abi=abi)

    why_not = linux_landlock.why_not() or _refusal(restrict)
    return _without(ground, Need.LANDLOCK, why_not) or replace(ground, landlock_abi=abi)


def _with_filter(ground: Ground) -> Ground:
    def install() -> None:
        posix.refuse_new_privileges(_NOBODY)
        linux_seccomp.refuse_system_calls(_NOBODY)

    why_not = linux_seccomp.why_not() or _refusal(install)
    return _without(ground, Need.SECCOMP, why_not) or replace(ground, filters_calls=True)


def _with_namespaces(ground: Ground) -> Ground:
    inside = replace(ground, has_namespaces=True, has_cgroups=False)  # no group is made for a try
    why_not = _refusal(lambda: probe(lambda: walls_of(inside)))
    return _without(ground, Need.NAMESPACES, why_not) or replace(ground, has_namespaces=True)


def _refusal(action: Callable[[], None]) -> str:
    """Do something in a throw-away child; return why the machine refused it, "" if it did not.

    Raises SetUpFailed for all that is no refusal.
    """
    try:
        attempt(action)
    except Refused as exc:
        return str(exc)
    return ""


def _without(ground: Ground, need: Need, why_not: str) -> Ground | None:
    if not why_not:
        return None
    return replace(ground, refusals={**ground.refusals, need: why_not})


def _facts(ground: Ground) -> tuple[LayerFact, ...]:
    job = replace(_NOBODY, walls=_bare_walls(ground), has_init=True)
    return tuple(LayerFact(one.name, one.promise, one.need, job.has(one.need)) for one in LAYERS)
