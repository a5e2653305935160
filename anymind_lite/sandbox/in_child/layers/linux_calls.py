"""The system calls of the namespace layers, each a plain function that raises OSError.

Python has `os.unshare` and `os.setns` only since 3.12, and none of the others at all.
"""

import ctypes
import functools
import os
import signal

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
# How a template clones itself, exactly, as its filter lets no other clone(2) pass. CLONE_PARENT:
# who waits for the clone, and is told the truth of its end, is the zygote.
CLONE_OF_TEMPLATE = (
    CLONE_NEWUSER
    | CLONE_NEWNS
    | CLONE_NEWIPC
    | CLONE_PARENT
    | CLONE_CHILD_SETTID
    | CLONE_CHILD_CLEARTID
    | signal.SIGCHLD
)

# linux/mount.h. The first four have the values that statvfs(3) reports.
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# linux/prctl.h, linux/securebits.h, linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
# Told once, as a conversion for each call would cost more than the call.
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.mount.argtypes = [*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p]


def prctl(option: int, value: int) -> None:
    """Call prctl(2)."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise _error(f"prctl({option}, {value})")


def count_tasks() -> int:
    """Return how many processes and threads there are on the machine (sysinfo(2))."""
    found = (ctypes.c_ulong * 64)()  # struct sysinfo: uptime, 3 loads, 6 sizes, then a short
    if _libc.sysinfo(found) != 0:
        raise _error("sysinfo")
    return ctypes.c_ushort.from_buffer(found, 10 * ctypes.sizeof(ctypes.c_ulong)).value


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones (unshare(2))."""
    if _libc.unshare(flags) != 0:
        raise _error("unshare")


def setns(fd: int, kind: int) -> None:
    """Join a namespace (setns(2)); of a pid namespace: for the children to come."""
    if _libc.setns(fd, kind) != 0:
        raise _error("setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    words = (os.fsencode(word) or None for word in (source, target, kind))
    if _libc.mount(*words, flags, os.fsencode(options) or None) != 0:
        raise _error(f"mount on {target}")


def detach(target: str) -> None:
    """Take a mount and all below it away (umount2(2))."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise _error(f"umount of {target}")


def pivot_root(new: str, old: str) -> None:
    """Swap the root of this mount namespace (pivot_root(2))."""
    if _libc.pivot_root(os.fsencode(new), os.fsencode(old)) != 0:
        raise _error("pivot_root")


def set_host_name(name: str) -> None:
    """Name this UTS namespace (sethostname(2))."""
    text = name.encode()
    if _libc.sethostname(text, len(text)) != 0:
        raise _error("sethostname")


def give_up_setgroups(proc_fd: int) -> None:
    """Do without setgroups(2) in a new user namespace and in all below it.

    The kernel demands it before an unprivileged process maps its gid (user_namespaces(7)).
    """
    _write(proc_fd, "self/setgroups", "deny")


def write_id_maps(proc_fd: int, inner_uid: int, inner_gid: int, ids: tuple[int, int]) -> None:
    """Map the one uid and gid that this process has, `ids`, in its new user namespace.

    Needs a dumpable process: the files are root's otherwise (proc(5)). `proc_fd` is a /proc of this
    or an outer pid namespace.
    """
    uid, gid = ids
    _write(proc_fd, "self/uid_map", f"{inner_uid} {uid} 1")
    _write(proc_fd, "self/gid_map", f"{inner_gid} {gid} 1")


def write_id_maps_of(proc_fd: int, pid: int, inner_uid: int, inner_gid: int) -> None:
    """Map a child's uid and gid in its new user namespace, below this one, to the same in this.

    `pid` is as `proc_fd` counts; the child must be dumpable. Raises OSError.
    """
    _write(proc_fd, f"{pid}/uid_map", f"{inner_uid} {inner_uid} 1")
    _write(proc_fd, f"{pid}/gid_map", f"{inner_gid} {inner_gid} 1")


def pid_in(proc_fd: int, pidfd: int) -> int:
    """Return which pid a process has in the pid namespace of a /proc (pidfd_open(2))."""
    fd = os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        text = os.read(fd, 4096).decode("ascii")
    finally:
        os.close(fd)
    return int(text.partition("\nPid:")[2].split()[0])


def _write(proc_fd: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@functools.cache
def count_capabilities() -> int:
    """Return how many capabilities this kernel has; asked once, before forking."""
    count = 0
    while _libc.prctl(PR_CAPBSET_READ, count, 0, 0, 0) >= 0:
        count += 1
    return count


def drop_every_capability() -> None:
    """Empty all five sets (capabilities(7)); void for ever, also for uid 0 and across exec."""
    for capability in range(count_capabilities()):
        prctl(PR_CAPBSET_DROP, capability)
    # noroot, no_setuid_fixup and keep_caps off, each with its lock; no_cap_ambient_raise.
    prctl(PR_SET_SECUREBITS, 0b1110_1111)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    clear_capabilities()


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets: enough for what never calls exec."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise _error("capset")


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
