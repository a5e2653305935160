"""Landlock: the files that agent code may open, and nothing else.

`supported_abi`, `runtime_paths` and `device_paths` run in the zygote, once; `restrict` runs in the
child, after no_new_privs and before seccomp. A ruleset cannot be prepared in the zygote and added
to in the child: a forked descriptor is the same ruleset, so one child's scratch folder would be
open to the next; and two rulesets on top of each other grant only what both do.

What Landlock does not see, at any ABI: that a path exists and what stat(2) tells of it, changes of
mode, owner, times and extended attributes, watches. The seccomp layer closes what of this changes
anything. Before ABI 3 (Linux 6.2) it does not see truncate(2) either, before 4 (6.7) no TCP, before
5 (6.10) no ioctl(2) of devices, before 6 (6.12) no abstract sockets and no signals; seccomp refuses
each of these as well. Before 2 (5.19) files cannot change folders, even within the scratch folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anymind_lite.sandbox.in_child.layers import Confinement

# The same on every architecture but alpha (scripts/syscall.tbl).
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446

# linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RESTRICT_SELF_LOG_SAME_EXEC_OFF = 1
_RESTRICT_SELF_LOG_SUBDOMAINS_OFF = 4
_RULESET = struct.Struct("=QQQ")  # handled_access_fs, handled_access_net, scoped
_PATH_BENEATH = struct.Struct("=Qi")  # allowed_access, parent_fd

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15

# How many of the rights above each ABI knows, from 1 on; the last one holds for all that follow.
_RIGHTS_OF_ABI = (13, 14, 15, 15, 16)
_ABI_OF_TCP, _ABI_OF_SCOPES, _ABI_OF_LOGS = 4, 6, 7
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # a file takes no others
_TO_READ = READ_FILE | READ_DIR
# No device nodes and no sockets: nothing good could come of them.
_TO_WRITE = (_TO_READ | WRITE_FILE | TRUNCATE | REFER | REMOVE_DIR | REMOVE_FILE) | (
    MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM
)

# Where the loader looks for shared libraries (ld.so(8)) besides the interpreter's own prefix.
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
# What the standard library and the libraries it stands on read, and fail over when it is there but
# closed. The lists of types are mimetypes.knownfiles, as far as they are in use.
_CONFIGURATION = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/etc/mime.types",
    "/etc/apache2/mime.types",
    "/etc/httpd/conf/mime.types",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# Looked up before the fork: the first use of a function costs a child 0.1 ms.
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def restrict_files(confinement: Confinement) -> None:
    """Open Python's files and the agent's code to read, the scratch folder to write; no other.

    Only a run that may start processes can start what it reads: Python, mostly. A scratch folder
    that is mounted may be written to by the rule for the folder above, as each clone of a template
    gets one mounted over the template's own, and Landlock passes over what is mounted on.
    (test_clone_writes_to_its_own_scratch_folder)
    """
    walls = confinement.walls
    code = filter(None, [confinement.code_dir])
    scratch = confinement.scratch_dir
    writable = os.path.dirname(scratch) if walls.has_namespaces else scratch
    restrict(
        readable=[*walls.readable, *code],
        writable=[*walls.devices, writable],
        executable=[sys.executable, *walls.readable] if confinement.has_init else (),
        abi=walls.landlock_abi,
    )


def supported_abi() -> int:
    """Return the kernel's version of Landlock, 0 where there is none or it is switched off."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)))


def why_not() -> str:
    """Tell why there is no Landlock here; "" where there is."""
    if sys.platform != "linux":
        return "this is no Linux"
    if supported_abi():
        return ""
    return f"the kernel offers no Landlock ({os.strerror(ctypes.get_errno())})"


def runtime_paths() -> tuple[str, ...]:
    """Return what this interpreter needs to read, as far as it exists, none inside another.

    Its standard library and libpython lie below the prefix it was built for, wherever that is; a
    virtual environment's own packages do not.
    """
    prefixes = (sys.base_prefix, sys.base_exec_prefix)
    own = [os.path.join(prefix, sys.platlibdir) for prefix in prefixes]
    own += [os.path.dirname(os.__file__)]
    return _outermost(_existing([*own, *_LIBRARIES, *_CONFIGURATION]))


def device_paths() -> tuple[str, ...]:
    """Return the harmless devices that there are; all can be written to."""
    return tuple(_existing(_DEVICES))


def restrict(
    *,
    readable: Iterable[str],
    writable: Iterable[str],
    executable: Iterable[str] = (),
    abi: int,
) -> None:
    """Close all files but these, and what is below them, to this process and its descendants.

    What is executable is readable too. Descriptors that are open stay open. Sockets, signals to
    outside and device commands go as far as the ABI knows them. Raises OSError, also for a path
    that is not there.
    """
    if abi < 1:
        raise OSError(errno.EOPNOTSUPP, "Landlock: the kernel has none or it is switched off")
    ruleset = _create_ruleset(abi)
    try:
        for paths, rights in (
            (readable, _TO_READ),
            (executable, _TO_READ | EXECUTE),
            (writable, _TO_WRITE),
        ):
            for path in paths:
                _allow(ruleset, path, rights & _handled(abi))
        _call(_SYS_RESTRICT_SELF, ruleset, _quiet(abi))
    finally:
        os.close(ruleset)


def _existing(paths: Iterable[str]) -> list[str]:
    """Return the paths without links, each once, without those that cannot be reached."""
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))


def _outermost(paths: list[str]) -> tuple[str, ...]:
    return tuple(
        path for path in paths if not any(path.startswith(other + os.sep) for other in paths)
    )


def _handled(abi: int) -> int:
    count = _RIGHTS_OF_ABI[min(abi, len(_RIGHTS_OF_ABI)) - 1]
    return (1 << count) - 1


def _create_ruleset(abi: int) -> int:
    # A kernel takes a longer structure than its own as long as what it does not know is 0.
    attributes = _RULESET.pack(
        _handled(abi),
        _BIND_AND_CONNECT_TCP if abi >= _ABI_OF_TCP else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= _ABI_OF_SCOPES else 0,
    )
    return _call(_SYS_CREATE_RULESET, attributes, len(attributes), 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        _call(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, _PATH_BENEATH.pack(rights, fd), 0)
    finally:
        os.close(fd)


def _quiet(abi: int) -> int:
    """Return the flags that keep refusals out of the machine's audit log: they would flood it."""
    if abi < _ABI_OF_LOGS:
        return 0
    return _RESTRICT_SELF_LOG_SAME_EXEC_OFF | _RESTRICT_SELF_LOG_SUBDOMAINS_OFF


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(_syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
