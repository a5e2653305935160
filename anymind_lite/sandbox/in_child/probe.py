"""What the kernel offers beyond the layers in use. Runs in a child that does nothing else."""

import ctypes
import os
import sys

_PR_GET_SECCOMP = 21  # linux/prctl.h
_SYS_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h

_libc = ctypes.CDLL(None, use_errno=True)


def find_offers() -> list[dict[str, str]]:
    """Return name and note of each kernel feature that a stronger sandbox could stand on."""
    if sys.platform != "linux":
        return [{"name": "linux", "note": "this is no Linux: its layers are not to be had"}]
    return [
        {"name": "landlock", "note": _landlock()},
        {
            "name": "seccomp",
            "note": _offered(is_offered=_libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0),
        },
    ]


def _landlock() -> str:
    version = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    return f"offered by the kernel (ABI {version})" if version > 0 else _offered(is_offered=False)


def _offered(*, is_offered: bool) -> str:
    if is_offered:
        return "offered by the kernel"
    return f"not offered by the kernel ({os.strerror(ctypes.get_errno())})"
