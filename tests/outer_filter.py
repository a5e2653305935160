"""Runs a command as Docker's default seccomp profile would: without namespaces and mounts.

    python tests/outer_filter.py COMMAND [ARGUMENT...]

Refused with EPERM, as Docker does without CAP_SYS_ADMIN: unshare(2), setns(2), the mount calls,
clone(2) with a namespace; clone3(2) does not exist (ENOSYS), as a filter cannot see its flags.
Everything else passes, calls of other architectures too. Root needs no no_new_privs for that and
does without, as in a container.
"""

import ctypes
import errno
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from anymind_lite.sandbox.in_child.layers.linux_syscalls import NUMBERS

REFUSED = [
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "mount_setattr",
]
_CLONE_NEW = 0x7E020000  # linux/sched.h: every CLONE_NEW*
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # linux/audit.h

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


def build_filter() -> bytes:
    """Return the program; each check stands alone: jump over the next instruction or take it."""
    architecture, column = _ARCHITECTURES[os.uname().machine]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_JUMP_IF_EQUAL, 1, 0, architecture)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER_AT)]
    for name, error in [*((name, errno.EPERM) for name in REFUSED), ("clone3", errno.ENOSYS)]:
        number = NUMBERS[name][column] or 0
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    steps += [(_JUMP_IF_EQUAL, 1, 0, NUMBERS["clone"][column] or 0), (_RETURN, 0, 0, _ALLOW)]
    steps += [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_AND, 0, 0, _CLONE_NEW)]
    steps += [(_JUMP_IF_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW)]
    steps += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


def install() -> None:
    """Put the filter on this process and all that it starts. Raises OSError."""
    code = bytearray(build_filter())
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    header = struct.pack("@HP", len(code) // _INSTRUCTION.size, address)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0:
        return
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the outer filter cannot be installed")


if __name__ == "__main__":
    install()
    os.execvp(sys.argv[1], sys.argv[1:])
