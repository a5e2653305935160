"""What this machine's sandbox can do, and what would mend it. Runs in the server."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymind_lite.errors import StartupError
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits, Tier
from anymind_lite.sandbox.protocol import Ground, Job, LayerFact, Mode, Need

_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_IN_A_CONTAINER = (
    "the container's runtime refuses them: start it with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined, "
    "or be content with tier B"
)
_APPARMOR = (
    "give this Python an AppArmor profile with the rule `userns,` "
    "(docs/installation.md has it), or be content with tier B"
)
# What keeps an ordinary user from namespaces: the file, its refusing value, the way out.
_SWITCHES = (
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "allow them: sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",  # Debian before 11
        "0",
        "allow them: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",  # Ubuntu since 23.10
        "1",
        _APPARMOR,
    ),
)
_FIXES = {
    Need.CGROUP: "none is needed; to have it, run the server as a systemd service of its own with "
    "Delegate=yes (docs/installation.md has a unit)",
    Need.NAMESPACES: "a Linux kernel with user namespaces (CONFIG_USER_NS)",
    Need.LANDLOCK: "a Linux kernel from 5.13 on, with landlock among its security modules: "
    "add it to lsm= on the kernel's command line (cat /sys/kernel/security/lsm shows them)",
    Need.SECCOMP: "a 64-bit Python on x86-64 or aarch64, and a Linux kernel with "
    "CONFIG_SECCOMP_FILTER",
}


@dataclass(frozen=True)
class LayerState:
    """One layer on this machine: what it promises; if it is off, why, and what would mend that.

    `is_for_processes` marks what only a run with `subprocess: true` has.
    """

    name: str
    is_on: bool
    promise: str
    is_for_processes: bool = False
    why_off: str = ""
    fix: str = ""


@dataclass(frozen=True)
class SandboxState:
    """The walls that agents get here; `message` says why none may run, "" where they may."""

    tier: Tier
    min_tier: Tier
    can_run: bool
    message: str
    layers: tuple[LayerState, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def sandbox_state(sandbox: Supervisor) -> SandboxState:
    """Return what stands around agents now."""
    ground = sandbox.ground
    return SandboxState(
        tier=ground.tier,
        min_tier=sandbox.min_tier,
        can_run=not sandbox.refusal,
        message=sandbox.refusal,
        layers=tuple(_state(one, ground) for one in ground.layers),
    )


def try_sandbox(sandbox: Supervisor) -> None:
    """Apply every layer in a real child. Raises StartupError, which names the layer that failed."""
    outcome = sandbox.run(Job(Mode.PROBE, Limits()), key="probe")
    if outcome.reason is not StopReason.RETURNED:
        raise StartupError(f"The sandbox does not work on this machine. {outcome.message}")


def _state(layer: LayerFact, ground: Ground) -> LayerState:
    why_off = fix = ""
    if not layer.is_on:
        need = Need.NAMESPACES if layer.need is Need.INIT else layer.need
        why_off, fix = ground.refusals.get(need, ""), _fix(need)
    return LayerState(
        layer.name,
        is_on=layer.is_on,
        promise=layer.promise,
        is_for_processes=layer.need is Need.INIT,
        why_off=why_off,
        fix=fix,
    )


def _fix(need: Need) -> str:
    """Return what an operator can change so that a wall stands."""
    if need is Need.NAMESPACES:
        for path, refusing, remedy in _SWITCHES:
            try:
                if Path(path).read_text(encoding="ascii").strip() == refusing:
                    return remedy
            except OSError:
                pass  # this kernel has no such switch
        if any(Path(mark).exists() for mark in _CONTAINER_MARKS):
            return _IN_A_CONTAINER
    return _FIXES[need]
