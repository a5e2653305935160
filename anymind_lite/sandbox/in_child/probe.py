"""What the kernel offers beyond the layers in use. Runs in a child that does nothing else."""

import ctypes
import os
import sys

_SYS_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h

_libc = ctypes.CDLL(None, use_errno=True)


def find_offers() -> list[dict[str, str]]:
    """Return name and note of each kernel feature that a stronger sandbox could stand on."""
    if sys.platform != "linux":
        return [{"name": "linux", "note": "this is no Linux: its layers are not to be had"}]
    return [{"name": "landlock", "note": _landlock()}]


def _landlock() -> str:
    version = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version > 0:
        return f"offered by the kernel (ABI {version})"
    return f"not offered by the kernel ({os.strerror(ctypes.get_errno())})"
