"""seccomp: the system calls that agent code may not make.

A deny-list, since allow-lists break programs whenever libc learns a new call; but a call newer
than all that are known here does not exist for an agent (ENOSYS, which libc expects of old
kernels), because new calls are how walls get their holes. Refused is with the errno that programs
cope with best; only a call of another architecture (32-bit calls, x32) kills.

`build_filter` runs in the zygote, once for each kind of job; `install` runs in the child, last of
all layers: prctl(2) is cut down after it.

What is named by a pid is the hard part. Children of one zygote share a pid namespace, and one
user's processes may signal, slow and time each other; a user namespace does not come between, as
the kernel compares host uids. So wherever a call takes a pid, only one's own passes, unless the
run has a pid namespace of its own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from enum import Enum
from typing import TYPE_CHECKING

from anymind_lite.sandbox.in_child.layers import linux_syscalls
from anymind_lite.sandbox.in_child.layers.linux_bpf import (
    ALLOW,
    KILL_PROCESS,
    OWN_PID,
    Program,
    Rule,
    Test,
    Verdict,
    assemble,
    fail_with,
)
from anymind_lite.sandbox.in_child.layers.linux_calls import CLONE_OF_TEMPLATE

if TYPE_CHECKING:
    from anymind_lite.sandbox.in_child.layers import Confinement, Walls

# linux/audit.h, by the name that uname(2) gives, with the column of the table of numbers.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_CALLS = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h

_PR_GET_SECCOMP = 21  # linux/prctl.h
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2  # linux/seccomp.h

_EPERM = fail_with(errno.EPERM)
_EACCES = fail_with(errno.EACCES)
_ENOSYS = fail_with(errno.ENOSYS)
_ENOTSUP = fail_with(errno.ENOTSUP)
_PRETEND = fail_with(0)  # says that it was done

# Refused as if the kernel had none of it: callers probe for these and go another way. What
# is counted for a whole user or machine is among them (aio, watches), and what takes kernel memory
# that no limit counts (rulesets); watches also tell what neighbours open. clone3 keeps
# its flags in memory, out of a filter's sight; libc falls back to clone.
_NOT_THERE = """
    clone3 seccomp pidfd_open pidfd_send_signal pidfd_getfd
    io_uring_setup io_uring_enter io_uring_register
    statmount listmount open_tree_attr lsm_set_self_attr
    io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    inotify_init inotify_init1 inotify_add_watch
"""

# Refused to everybody.
_NEVER = """
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    migrate_pages move_pages
    bind listen accept accept4 connect
    shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    timer_create
    memfd_create memfd_secret userfaultfd
    add_key request_key keyctl
    mount umount2 pivot_root chroot unshare setns
    fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr
    bpf perf_event_open personality modify_ldt
    fanotify_init fanotify_mark open_by_handle_at name_to_handle_at lookup_dcookie
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    swapon swapoff acct quotactl quotactl_fd syslog vhangup iopl ioperm uselib
    settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
"""

# These write out whole file systems. Nothing of a run outlives it, so nothing is lost.
_FLUSHING_ALL = "sync syncfs"

_NEW_PROCESSES = "fork vfork execve execveat"
_SIGNALS_TO_ANYBODY = "tkill rt_sigqueueinfo rt_tgsigqueueinfo"

# linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; and PARENT, by which
# children would be the zygote's own.
_CLONE_NEW = 0x7E020000 | 0x8000
_CLONE_THREAD = 0x00010000

# linux/prctl.h: PDEATHSIG, DUMPABLE, SECCOMP, CHILD_SUBREAPER, SCHED_CORE, MEMORY_MERGE, PTRACER
_PRCTL_SET = (1, 4, 22, 36, 62, 67, 0x59616D61)
_PRCTL_OF_LAYERS = (1, 4, 22)

_IOCTL_TERMINAL = (0x5412, 0x541C)  # asm-generic/ioctls.h: TIOCSTI and TIOCLINUX type for others
_IOCTL_ASYNC = 0x5452  # asm-generic/ioctls.h: FIOASYNC
# linux/sockios.h: FIOSETOWN and SIOCSPGRP name a process; the rest asks for the machine's network
# interfaces, which any socket answers, one of a Unix pair too.
_IOCTL_OF_SOCKETS, _IOCTL_KIND = 0x8900, 0xFF00
# linux/fs.h, linux/fsverity.h: FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY
_IOCTL_INODE = (0x40086602, 0x401C5820, 0x40806685)

_FCNTL_OWNER = (8, 10, 15)  # asm-generic/fcntl.h: F_SETOWN, F_SETSIG, F_SETOWN_EX
# linux/fcntl.h: F_SETLEASE, F_NOTIFY; F_SETPIPE_SZ takes from what all pipes of a user share.
_FCNTL_FOR_ALL = (1024, 1026, 1031)

_AF_UNIX = 1
_AF_INET = (2, 10)
_SOCK_STREAM = 1
_SOCKET_TYPE = ~(0o4000 | 0o2000000) & 0xFFFFFFFF  # without SOCK_NONBLOCK and SOCK_CLOEXEC
_DEFAULT_OR_TCP = (0, 6)
_SOL_SOCKET = 1
# asm-generic/socket.h: SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF load programs.
_SO_ATTACH = (26, 50, 51, 52)
_SO_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and FORCE: memory that no limit counts
_MSG_FASTOPEN = 0x20000000  # linux/socket.h: sends and connects in one

# Landlock does not look at these: neither at who changes an inode's data about itself, nor at
# who watches a folder. (landlock(7), CAVEATS)
_CHANGES_TO_MODES = "chmod fchmod fchmodat fchmodat2"
_CHANGES_TO_TIMES = "utime utimes futimesat utimensat"
_CHANGES_TO_OWNERS = "chown fchown lchown fchownat file_setattr"
_EXTENDED_ATTRIBUTES = """
    setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat
    listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
"""

# asm-generic/fcntl.h. Without a mode to write with, O_TRUNC empties what may only be read, and the
# access mode 3 opens without any right, to Landlock before ABI 3.
_O_ACCMODE, _O_TRUNC = 3, 0o1000
_ODD_OPENS = (_O_TRUNC, _O_ACCMODE, _O_ACCMODE | _O_TRUNC)
_LANDLOCK_KNOWS_TRUNCATE = 3

_Rules = dict[str, Rule | Verdict]

# Looked up before the fork: the first use of a function costs a child 0.1 ms.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def why_not() -> str:
    """Tell why system calls cannot be filtered here; "" where they can."""
    if sys.platform != "linux":
        return "this is no Linux"
    if _prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return f"the kernel has no seccomp ({os.strerror(ctypes.get_errno())})"
    try:
        _architecture()
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def refuse_system_calls(confinement: Confinement) -> None:
    """Refuse what agent code may not ask of the kernel; the last layer but the environment."""
    kind = Kind.TEMPLATE if confinement.is_template else Kind.of_run(has_init=confinement.has_init)
    install(filter_for(confinement.walls, kind), os.getpid())


class Kind(Enum):
    """Whom a filter is for. Only with an init may a run start processes, in its own namespace."""

    RUN = "run"
    RUN_WITH_INIT = "run with init"
    TEMPLATE = "template"

    @classmethod
    def of_run(cls, *, has_init: bool) -> Kind:
        """Return the kind of a run."""
        return cls.RUN_WITH_INIT if has_init else cls.RUN


def filter_for(walls: Walls, kind: Kind) -> Program:
    """Return the filter of that kind behind these walls.

    Called once for each kind before the fork, so that no child has to build one.
    """
    return _cached_filter(kind, not walls.has_namespaces, walls.landlock_abi)


@functools.cache
def _cached_filter(kind: Kind, is_only_wall: bool, landlock_abi: int) -> Program:
    return build_filter(
        allows_processes=kind is Kind.RUN_WITH_INIT,
        has_own_pids=kind is not Kind.RUN,
        is_only_wall=is_only_wall,
        clones_itself=kind is Kind.TEMPLATE,
        landlock_abi=landlock_abi,
    )


def build_filter(
    *,
    allows_processes: bool,
    has_own_pids: bool,
    is_only_wall: bool,
    allows_stream_sockets: bool = False,
    clones_itself: bool = False,
    landlock_abi: int = _LANDLOCK_KNOWS_TRUNCATE,
) -> Program:
    """Return the filter for one kind of job.

    `has_own_pids` says that the run has a pid namespace of its own; `is_only_wall` that there are
    no namespaces at all, so that Landlock's gaps, which depend on its ABI, are this layer's.
    What `clones_itself` may do so in one way alone, and every clone takes a run's filter on top.
    Stream sockets may exist but not connect: others hand connected ones in. Raises OSError on a
    machine whose calls are not known.
    """
    rules = _rules_for_all()
    rules |= _rules_for_processes(allows_processes=allows_processes)
    if not has_own_pids:
        rules |= _rules_for_shared_pids()
    if allows_stream_sockets:
        rules |= _rules_for_stream_sockets()
    if is_only_wall:
        rules |= _rules_beside_landlock(landlock_abi)
    if clones_itself:
        rules |= _rules_for_templates()
    rules |= _rules_by_command(has_own_pids=has_own_pids, is_only_wall=is_only_wall)
    architecture, column = _architecture()
    return assemble(_by_number(rules, column), architecture=architecture)


def install(program: Program, pid: int) -> None:
    """Put the filter on this thread, for good; `pid` is this process, as it sees itself.

    no_new_privs must be set and nobody else may be running here. Raises OSError.
    """
    code = bytearray(program.code)
    for place in program.pid_places:
        struct.pack_into("=I", code, place, pid)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    # struct sock_fprog of linux/filter.h: how many instructions of 8 bytes, and where.
    header = struct.pack("@HP", len(code) // 8, address)
    if _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _architecture() -> tuple[int, int]:
    machine = os.uname().machine
    # A 32-bit Python on a 64-bit kernel, as on some Raspberry Pis, makes other calls than its
    # kernel's name says.
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        bits = 64 if sys.maxsize > 2**32 else 32
        raise OSError(
            errno.ENOSYS,
            f"seccomp: the system calls of a {bits}-bit Python on {machine} are not known here "
            "(known are 64-bit x86_64 and aarch64)",
        )
    return _ARCHITECTURES[machine]


def _by_number(rules: _Rules, column: int) -> dict[int, Rule | Verdict]:
    """Return where each rule starts to hold: it does for one number, what follows is allowed."""
    starts: dict[int, Rule | Verdict] = {0: ALLOW, linux_syscalls.HIGHEST + 1: _ENOSYS}
    if column == 0:
        starts[_X32_CALLS] = KILL_PROCESS
    numbers = {linux_syscalls.NUMBERS[name][column]: rule for name, rule in rules.items()}
    for number, rule in sorted((n, rule) for n, rule in numbers.items() if n is not None):
        starts[number] = rule
        starts.setdefault(number + 1, ALLOW)
    return starts


def _each(names: str, rule: Rule | Verdict) -> _Rules:
    return dict.fromkeys(names.split(), rule)


def _only_if(*tests: Test, otherwise: Verdict = _EPERM) -> Rule:
    return Rule(tests, ALLOW, otherwise)


def _not_if(*tests: Test, verdict: Verdict = _EPERM) -> Rule:
    return Rule(tests, verdict, ALLOW)


def _rules_for_all() -> _Rules:
    return {
        **_each(_NOT_THERE, _ENOSYS),
        **_each(_NEVER, _EPERM),
        **_each(_FLUSHING_ALL, _PRETEND),
        "prctl": _not_if(Test(0, _PRCTL_SET)),
        "setsockopt": Rule(
            (Test(1, (_SOL_SOCKET,)), Test(2, _SO_ATTACH)),
            _EPERM,
            _not_if(Test(1, (_SOL_SOCKET,)), Test(2, _SO_BUFFERS), verdict=_PRETEND),
        ),
        "socket": _EACCES,  # as socket(2) says of what may not be created
        # asyncio needs a pair of streams. A pair of datagram sockets could still send to any name.
        "socketpair": _only_if(
            Test(0, (_AF_UNIX,)), Test(1, (_SOCK_STREAM,), _SOCKET_TYPE), otherwise=_EACCES
        ),
    }


def _rules_for_processes(*, allows_processes: bool) -> _Rules:
    if allows_processes:
        return {"clone": _only_if(Test(0, (0,), _CLONE_NEW))}
    threads_alone = Test(0, (_CLONE_THREAD,), _CLONE_NEW | _CLONE_THREAD)
    return {**_each(_NEW_PROCESSES, _EPERM), "clone": _only_if(threads_alone)}


def _rules_for_templates() -> _Rules:
    """Let a template clone itself as the zygote expects it, and a clone put up its own walls.

    All stay in one session, by which the zygote knows whose they are.
    """
    threads_alone = Test(0, (_CLONE_THREAD,), _CLONE_NEW | _CLONE_THREAD)
    return {
        "clone": Rule((Test(0, (CLONE_OF_TEMPLATE,)),), ALLOW, _only_if(threads_alone)),
        "prctl": _not_if(Test(0, tuple(set(_PRCTL_SET) - set(_PRCTL_OF_LAYERS)))),
        **_each("setsid setpgid", _EPERM),
    }


def _rules_for_shared_pids() -> _Rules:
    """Let what names a process name one's own alone."""
    oneself = (0, OWN_PID)
    own_argument = _only_if(Test(0, oneself))
    # Which is a process (0 for priorities, 1 for ioprio) and not a group or a user; then who.
    own_priority = _only_if(Test(0, (0,)), Test(1, oneself))
    own_io_priority = _only_if(Test(0, (1,)), Test(1, oneself))
    # A negative clock is somebody's CPU time: a thread's of this process if bit 2 is set, else
    # any process's (include/linux/posix-timers.h).
    no_foreign_clock = _not_if(Test(0, (0x80000000,), 0x80000004), verdict=fail_with(errno.EINVAL))
    return {
        # Only a number: 0 and negative ones are groups.
        **_each("kill tgkill", _only_if(Test(0, (OWN_PID,)))),
        "capget": _EPERM,  # keeps the pid in memory
        "get_robust_list": own_argument,
        **_each(_SIGNALS_TO_ANYBODY, _EPERM),
        **_each("prlimit64 sched_setaffinity sched_setattr sched_setparam", own_argument),
        **_each("sched_setscheduler sched_getattr sched_getparam getpgid getsid", own_argument),
        **_each("sched_getscheduler sched_rr_get_interval", own_argument),
        # Of another thread of one's own as well; pthread_getattr_np(3) forgives only ENOSYS.
        "sched_getaffinity": _only_if(Test(0, oneself), otherwise=_ENOSYS),
        **_each("getpriority setpriority", own_priority),
        **_each("ioprio_get ioprio_set", own_io_priority),
        **_each("clock_gettime clock_getres clock_nanosleep", no_foreign_clock),
    }


def _rules_for_stream_sockets() -> _Rules:
    # MPTCP and SCTP sockets are streams as well, and pass filters meant for TCP.
    stream = (Test(1, (_SOCK_STREAM,), _SOCKET_TYPE), Test(2, _DEFAULT_OR_TCP))
    return {
        "socket": _only_if(Test(0, _AF_INET), *stream, otherwise=_EACCES),
        **_each("sendto sendmmsg", _not_if(Test(3, (_MSG_FASTOPEN,), _MSG_FASTOPEN))),
        "sendmsg": _not_if(Test(2, (_MSG_FASTOPEN,), _MSG_FASTOPEN)),
    }


def _rules_beside_landlock(abi: int) -> _Rules:
    """Guard what an agent of the server's own user could change by path."""
    return {
        # Libraries that copy or unpack files set modes and times and take a refusal for a failure.
        # Everything in the scratch folder is private and short-lived, so it is let go by unheard.
        **_each(f"{_CHANGES_TO_MODES} {_CHANGES_TO_TIMES}", _PRETEND),
        **_each(_CHANGES_TO_OWNERS, _EPERM),
        **_each(_EXTENDED_ATTRIBUTES, _ENOTSUP),
        "open": _not_if(Test(1, _ODD_OPENS, _O_ACCMODE | _O_TRUNC)),
        "openat": _not_if(Test(2, _ODD_OPENS, _O_ACCMODE | _O_TRUNC)),
        "openat2": _ENOSYS,  # keeps its flags in memory; callers fall back
        **({"truncate": _EPERM} if abi < _LANDLOCK_KNOWS_TRUNCATE else {}),
    }


def _rules_by_command(*, has_own_pids: bool, is_only_wall: bool) -> _Rules:
    """Refuse commands of ioctl(2) and fcntl(2)."""
    ioctls: tuple[int, ...] = _IOCTL_TERMINAL
    fcntls: tuple[int, ...] = _FCNTL_FOR_ALL
    if not has_own_pids:  # SIGIO can be made SIGKILL, and its owner a neighbour
        ioctls += (_IOCTL_ASYNC,)
        fcntls += _FCNTL_OWNER
    if is_only_wall:
        ioctls += _IOCTL_INODE
    of_sockets = _not_if(Test(1, (_IOCTL_OF_SOCKETS,), _IOCTL_KIND))
    return {
        "ioctl": Rule((Test(1, ioctls),), _EPERM, of_sockets),
        "fcntl": _not_if(Test(1, fcntls)),
    }
