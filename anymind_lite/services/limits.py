"""The limits of a version's jobs: the operator's own, or what the version asks for up to his caps.

Caps go by the keys of `manifest.LIMIT_KEYS`; each is the setting of that name with `MAX_` before.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anymind_lite.config import Settings
from anymind_lite.errors import BuildError
from anymind_lite.manifest import LIMIT_KEYS
from anymind_lite.models import AgentVersion
from anymind_lite.sandbox.policy import MEGABYTE, Limits

# Where a limit stands in `Limits`, and in which unit.
_PLACES = {
    "memory_mb": ("data_bytes", MEGABYTE),
    "address_space_mb": ("address_space_bytes", MEGABYTE),
    "file_mb": ("file_bytes", MEGABYTE),
    "scratch_mb": ("scratch_bytes", MEGABYTE),
    "scratch_files": ("scratch_files", 1),
    "open_files": ("open_files", 1),
    "processes": ("processes", 1),
}

# Of the machine's memory, for what only makes runs faster.
_WARM_SHARE = 8
_MOST_WARM_BYTES = 1024 * MEGABYTE

Caps = Mapping[str, float]


def operator_limits(settings: Settings, wall_seconds: float) -> Limits:
    """Return the limits of a job that asks for none."""
    return _within(
        wall_seconds,
        Limits(
            address_space_bytes=settings.execution_address_space_mb * MEGABYTE,
            data_bytes=settings.execution_memory_mb * MEGABYTE,
            file_bytes=settings.execution_file_mb * MEGABYTE,
            open_files=settings.execution_open_files,
            log_kept_bytes=settings.execution_log_kb * 1024,
            log_written_bytes=settings.execution_log_written_mb * MEGABYTE,
            report_bytes=settings.result_max_bytes,
            scratch_bytes=settings.execution_scratch_mb * MEGABYTE,
            scratch_files=settings.execution_scratch_files,
            processes=settings.execution_processes,
        ),
    )


def operator_caps(settings: Settings) -> Caps:
    """Return the most that a manifest may ask for."""
    return {key: getattr(settings, f"max_{key}") for key in LIMIT_KEYS}


def warm_memory_bytes(settings: Settings) -> int:
    """Return what versions that are kept imported may take: a share of the machine's by default."""
    if settings.warm_memory_mb >= 0:
        return settings.warm_memory_mb * MEGABYTE
    return min(_machine_bytes() // _WARM_SHARE, _MOST_WARM_BYTES)


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def asked_limits(version: AgentVersion) -> dict[str, float]:
    """Return what a version's manifest asked for when it was built."""
    asked: dict[str, float] = json.loads(version.limits) if version.limits else {}
    return asked


def check_limits(asked: Mapping[str, float], caps: Caps) -> None:
    """Refuse what is over a cap. Raises BuildError with both numbers and the setting's name."""
    for key, number in asked.items():
        if number > caps[key]:
            raise BuildError(
                f"anymind.yaml: limits.{key} is {_plain(number)}, this server allows at most "
                f"{_plain(caps[key])} (MAX_{key.upper()})."
            )


def execution_limits(defaults: Limits, asked: Mapping[str, float], caps: Caps) -> Limits:
    """Return the limits of an execution; the caps of now hold, whatever they were at the build."""
    limits = build_limits(defaults, asked, caps)
    if "timeout_seconds" not in asked:
        return limits
    return _within(min(asked["timeout_seconds"], caps["timeout_seconds"]), limits)


def build_limits(defaults: Limits, asked: Mapping[str, float], caps: Caps) -> Limits:
    """Return the limits of a build's import: all that the version asks for but its time."""
    changes: dict[str, Any] = {}
    for key in asked.keys() & _PLACES.keys():
        name, unit = _PLACES[key]
        changes[name] = int(min(asked[key], caps[key])) * unit
    if "data_bytes" in changes and "address_space_bytes" not in changes:
        changes["address_space_bytes"] = _room_for(changes["data_bytes"], defaults, caps)
    return replace(defaults, **changes) if changes else defaults


def template_limits(run: Limits, importing: Limits) -> Limits:
    """Return the limits of a process that imports a version and is then cloned for its runs.

    It has the time of a build's import. A clone can only lower what it inherits.
    """
    cpu_seconds = max(run.cpu_seconds, importing.cpu_seconds)
    return replace(run, wall_seconds=importing.wall_seconds, cpu_seconds=cpu_seconds)


def _room_for(data_bytes: int, defaults: Limits, caps: Caps) -> int:
    """Return addresses for so much data: libraries and threads keep the room that they have."""
    beside_data = defaults.address_space_bytes - defaults.data_bytes
    wanted = max(defaults.address_space_bytes, data_bytes + beside_data)
    return min(wanted, int(caps["address_space_mb"]) * MEGABYTE)


def _within(wall_seconds: float, limits: Limits) -> Limits:
    """Set the wall time, and the CPU time that no single thread reaches before it."""
    return replace(limits, wall_seconds=wall_seconds, cpu_seconds=int(wall_seconds) + 1)


def _plain(number: float) -> str:
    return str(number).removesuffix(".0")
