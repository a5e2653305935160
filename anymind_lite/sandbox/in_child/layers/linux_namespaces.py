"""Layers of tier A: what one run has to itself of mounts, ids and processes.

Runs in the child, which the zygote forked inside the namespaces made at the start (see
`in_zygote/stub.py`): there the root is a small read-only file system, the network is empty, and
all unpacked code stands at CODE_PARENT. The order is the table's: mounts first, while this process
may still mount; then a user namespace that owns none of them, so that nothing can be undone.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.protocol import AGENT_DIR, CODE_PARENT, INNER_GID, INNER_UID, SCRATCH_DIR

if TYPE_CHECKING:
    from anymind_lite.sandbox.in_child.layers import Confinement


def own_mounts(confinement: Confinement) -> None:
    """Mount an empty scratch folder and the one version's code; put all other code out of reach.

    All of it vanishes with the last process of the run. The code comes read-only, as its parent is
    mounted so. (test_agent_sees_its_own_code_alone, test_scratch_is_empty_for_each_run_and_capped)
    """
    limits = confinement.limits
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
    mount_scratch(limits.scratch_bytes, limits.scratch_files)
    if confinement.code_name:
        linux.mount(f"{CODE_PARENT}/{confinement.code_name}", AGENT_DIR, "", linux.MS_BIND)
    linux.detach(CODE_PARENT)


def mount_scratch(size_bytes: int, files: int) -> None:
    """Mount an empty scratch folder of that size, for that many files and folders."""
    linux.mount(
        "scratch",
        SCRATCH_DIR,
        "tmpfs",
        linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
        f"size={size_bytes},nr_inodes={files},mode=0700",
    )


def own_user_namespace(confinement: Confinement) -> None:
    """Enter a user namespace of the run's own: it owns no mount, and RLIMIT_NPROC counts in it."""
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    linux.unshare(linux.CLONE_NEWUSER)
    ids = INNER_UID, INNER_GID
    linux.write_id_maps(confinement.proc_fd, *ids, ids=ids)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # The host's /proc: nothing may be opened through it any more.
    os.close(confinement.proc_fd)


def confirm_own_processes(confinement: Confinement) -> None:
    """Make sure that the zygote put this process into a pid namespace, right after its init."""
    if confinement.has_init and (os.getpid(), os.getppid()) != (2, 0):
        raise OSError("the agent is not alone in its pid namespace")


def be_init() -> NoReturn:
    """Be process 1 of a run's pid namespace: reap what lost its parent, until killed.

    An agent as process 1 itself would ignore signals at their default, `abort` would misreport, and
    what it started would outlive it; with the init the kernel ends all (pid_namespaces(7)). What
    the agent may send it is ignored. Runs beside the child, forked by the zygote.
    """
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        linux.clear_capabilities()
        while True:
            signal.pause()
    finally:
        os._exit(70)  # EX_SOFTWARE (sysexits.h)


def drop_capabilities(_: Confinement) -> None:
    """Give up every capability that the user namespace gave, for ever."""
    linux.drop_every_capability()
