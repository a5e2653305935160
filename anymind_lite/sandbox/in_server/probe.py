"""What this machine's sandbox can do, tried in a throw-away child. Runs in the server."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymind_lite.errors import StartupError
from anymind_lite.sandbox.in_server.outcome import StopReason, one_line
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode

# What keeps an ordinary user from namespaces: the file, its refusing value, the way out.
_SWITCHES = (
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "allow them with: sysctl user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",  # Debian before 11
        "0",
        "allow them with: sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",  # Ubuntu since 23.10
        "1",
        "AppArmor refuses them: give this Python a profile with the rule `userns,`",
    ),
)


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

    Raises StartupError when no child can be confined; the text says which layer failed. The
    namespaces made at the start are the first of the list; layers that need them come with them.
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
    return [_namespaces(sandbox), *layers, *offers]


def _namespaces(sandbox: Supervisor) -> LayerState:
    ground = sandbox.ground
    if ground.has_namespaces:
        note = f"no file, network or process of the host; agents are {ground.note}"
        return LayerState("namespaces", is_required=False, is_on=True, note=note)
    note = "; ".join(filter(None, [ground.note, _how_to_allow()]))
    return LayerState("namespaces", is_required=False, is_on=False, note=note)


def _how_to_allow() -> str:
    """Return what an operator can change so that namespaces are to be had, if that is known."""
    for path, refusing, remedy in _SWITCHES:
        try:
            if Path(path).read_text(encoding="ascii").strip() == refusing:
                return remedy
        except OSError:
            pass  # this kernel has no such switch
    return ""
