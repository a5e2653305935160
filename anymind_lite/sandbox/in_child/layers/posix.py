"""Layers that every Linux has without privileges (and macOS in part), and what they are made of.

Runs in the child, before agent code; the parts without a confinement also in a reading and before
the zygote serves. Linux-only calls are skipped elsewhere, which is what tier C means.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

from anymind_lite.sandbox.in_child.layers.linux_calls import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    count_tasks,
    prctl,
)
from anymind_lite.sandbox.protocol import CHANNEL_FD, JOB_FD, SANDBOX_GID, SANDBOX_UID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anymind_lite.sandbox.in_child.layers import Confinement

_MOST_SIGNALS = 256  # that are queued and not delivered yet
# A template has no user namespace to count in but the zygote's, which is everybody's. The zygote
# counts its clones.
_TEMPLATE_TASKS = 4096
_TEMPLATE_FILES = 16  # of its own: the channel, and what a birth takes

IS_LINUX = sys.platform == "linux"


def enter_session(_: Confinement) -> None:
    """Lead a session and process group of its own."""
    os.setsid()


def close_descriptors(confinement: Confinement) -> None:
    """Close all but stdin (empty), stdout and stderr (the log), the report and the job.

    The one that a later layer uses and closes itself is kept for it; a template keeps its channel.
    """
    if confinement.is_template:
        kept = [CHANNEL_FD]
    else:
        kept = [confinement.proc_fd] if confinement.is_in_namespaces else []
    close_all_but(kept, first=JOB_FD + 1)


def close_all_but(kept: Iterable[int], *, first: int) -> None:
    """Close every descriptor from `first` on that is not kept."""
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def die_with_zygote(confinement: Confinement) -> None:
    """Be killed when the zygote dies. Raises OSError."""
    # A change of user namespace may clear it, so it is set after it. (prctl(2))
    if IS_LINUX:
        die_with_parent(confinement.parent_pid)


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent dies, also when it died before this line. Raises OSError."""
    if IS_LINUX:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise OSError(errno.ESRCH, "the parent is gone")


def leave_root() -> None:
    """Become the user of a root server's sandbox, for good; others stay who they are.

    Raises OSError.
    """
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(SANDBOX_GID, SANDBOX_GID, SANDBOX_GID)
        os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
    except OSError as exc:
        raise OSError(exc.errno, f"becoming uid {SANDBOX_UID}: {exc.strerror}") from exc


def limit_resources(confinement: Confinement) -> None:
    """Set the rlimits. Raises OSError."""
    limits = confinement.limits
    os.umask(0o077)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    more_files = _TEMPLATE_FILES if confinement.is_template else 0
    limit(resource.RLIMIT_NOFILE, limits.open_files + more_files)
    limit(resource.RLIMIT_AS, limits.address_space_bytes)
    limit(resource.RLIMIT_DATA, limits.data_bytes)
    if IS_LINUX:  # counted for the whole user: who takes all leaves none to the neighbours
        limit(resource.RLIMIT_SIGPENDING, _MOST_SIGNALS)
        limit(resource.RLIMIT_MSGQUEUE, 0)
        # What some desktops give their users: real time, and priority over others.
        limit(resource.RLIMIT_RTPRIO, 0)
        limit(resource.RLIMIT_NICE, 0)
        limit(resource.RLIMIT_NPROC, _most_tasks(confinement))
    # The soft limit sends SIGXCPU, which tells a CPU limit from a kill; the hard one SIGKILL.
    limit(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1)


def _most_tasks(confinement: Confinement) -> int:
    """Return how many processes and threads the run's user may have.

    In a user namespace of its own that is the run. Without, the kernel counts all that the user
    has: so whoever else is on the machine is allowed for, and the run's own share on top.
    """
    if confinement.is_template:
        return _TEMPLATE_TASKS
    others = 0 if confinement.is_in_namespaces else count_tasks()
    return others + confinement.limits.processes


def limit(which: int, soft: int, hard: int | None = None) -> None:
    """Lower an rlimit, `hard` to `soft` if not given; what was lower before stays."""
    hard = soft if hard is None else hard
    _soft, highest = resource.getrlimit(which)
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(which, (soft, hard))


def refuse_new_privileges(_: Confinement) -> None:
    """Make set-uid and file capabilities void for this process and all it starts."""
    if IS_LINUX:
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def refuse_tracing(_: Confinement) -> None:
    """Keep neighbours of the same user from reading this process's memory (ptrace(2))."""
    if IS_LINUX:
        prctl(PR_SET_DUMPABLE, 0)


def clean_environment(confinement: Confinement) -> None:
    """Leave only harmless variables; the scratch folder is home, temporary and working folder."""
    os.environ.clear()
    os.environ.update(
        HOME=confinement.scratch_dir,
        TMPDIR=confinement.scratch_dir,
        # getpass and others ask here first; without namespaces the list of users is closed.
        LOGNAME="agent",
        USER="agent",
        PATH="/usr/local/bin:/usr/bin:/bin",
        LANG="C.UTF-8",
        PYTHONUNBUFFERED="1",
        # NumPy's libraries start a thread for each CPU, which takes 40 MB of the memory limit.
        OPENBLAS_NUM_THREADS="1",
        OMP_NUM_THREADS="1",
    )
    os.chdir(confinement.scratch_dir)
