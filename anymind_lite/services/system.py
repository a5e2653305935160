"""What the server can tell of itself: how its sandbox stands."""

from dataclasses import dataclass

from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import Ground


@dataclass(frozen=True)
class LayerReport:
    """One layer on this machine; `fix` says how to have it where it is off, if that is known."""

    name: str
    is_on: bool
    note: str = ""
    fix: str = ""


@dataclass(frozen=True)
class SandboxState:
    """The walls that agents get here, and whether they are enough to run any."""

    tier: Tier
    min_tier: Tier
    can_run: bool
    message: str
    layers: tuple[LayerReport, ...]


def sandbox_state(sandbox: Supervisor, min_tier: Tier) -> SandboxState:
    """Return what stands around agents now."""
    ground = sandbox.ground
    return SandboxState(
        tier=ground.tier,
        min_tier=min_tier,
        can_run=not ground.error and ground.tier.reaches(min_tier),
        message=_message(ground, min_tier),
        layers=_layers(sandbox),
    )


def _message(ground: Ground, min_tier: Tier) -> str:
    if ground.error:
        return f"Sandbox set-up failed ({ground.error})."
    if ground.tier.reaches(min_tier):
        return f"Agents run in tier {ground.tier}."
    return (
        f"Agents are refused: this machine reaches tier {ground.tier}, MIN_TIER is {min_tier}. "
        f"`python3 run.py doctor` tells why; MIN_TIER={ground.tier} runs those that you trust."
    )


def _layers(sandbox: Supervisor) -> tuple[LayerReport, ...]:
    return tuple(LayerReport(name, is_on=True) for name in sandbox.ground.layers)
