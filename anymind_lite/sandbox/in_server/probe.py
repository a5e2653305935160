"""What this machine's sandbox can do, tried in a throw-away child. Runs in the server."""

from dataclasses import asdict, dataclass
from typing import Any

from anymind_lite.errors import StartupError
from anymind_lite.sandbox.in_server.outcome import StopReason, one_line
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode


@dataclass(frozen=True)
class LayerState:
    """One layer on this machine; a required one that is off keeps agents from running."""

    name: str
    is_required: bool
    is_on: bool
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def probe_machine(sandbox: Supervisor) -> list[LayerState]:
    """Apply every layer in a child and look for what the kernel offers beyond them.

    Raises StartupError when no child can be confined; the text says which layer failed.
    """
    outcome = sandbox.run(Job(Mode.PROBE, Limits()), key="probe")
    if outcome.reason is not StopReason.RETURNED:
        raise StartupError(f"The sandbox does not work on this machine. {outcome.message}")
    layers = [
        LayerState(one_line(one["name"]), is_required=True, is_on=True, note=one_line(one["note"]))
        for one in outcome.details["layers"]
    ]
    offers = [
        LayerState(
            one_line(one["name"]), is_required=False, is_on=False, note=one_line(one["note"])
        )
        for one in outcome.details["offers"]
    ]
    return layers + offers
