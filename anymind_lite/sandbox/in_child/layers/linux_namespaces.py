"""Layers of tier A: what one run has to itself of mounts, ids and processes.

Runs in the child, which the zygote forked inside the namespaces made at the start (see
`in_zygote/stub.py`): there the root is a small read-only file system, the network is empty, and
all unpacked code stands at CODE_PARENT. The order is the table's: mounts first, while this process
may still mount; then a user namespace that owns none of them, so that nothing can be undone.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import TYPE_CHECKING

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.protocol import AGENT_DIR, CODE_PARENT, INNER_GID, INNER_UID, SCRATCH_DIR

if TYPE_CHECKING:
    from anymind_lite.sandbox.in_child.layers import Confinement

_STATUS = struct.Struct("i")


def own_mounts(confinement: Confinement) -> None:
    """Mount an empty scratch folder and the one version's code; put all other code out of reach.

    All of it vanishes with the last process of the run. The code comes read-only, as its parent is
    mounted so. (test_agent_sees_its_own_code_alone, test_scratch_is_empty_for_each_run_and_capped)
    """
    limits = confinement.limits
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
    linux.mount(
        "scratch",
        SCRATCH_DIR,
        "tmpfs",
        linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
        f"size={limits.scratch_bytes},nr_inodes={limits.scratch_files},mode=0700",
    )
    if confinement.code_name:
        linux.mount(f"{CODE_PARENT}/{confinement.code_name}", AGENT_DIR, "", linux.MS_BIND)
    linux.detach(CODE_PARENT)


def own_user_namespace(confinement: Confinement) -> None:
    """Enter a user namespace of the run's own: it owns no mount, and RLIMIT_NPROC counts in it."""
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    linux.unshare(linux.CLONE_NEWUSER)
    ids = INNER_UID, INNER_GID
    linux.write_id_maps(confinement.proc_fd, *ids, ids=ids)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    # The host's /proc: nothing may be opened through it any more.
    os.close(confinement.proc_fd)


def start_init(confinement: Confinement) -> None:
    """Fork: the child goes on to the next layer, this process stays behind as its init.

    Only where the zygote made a pid namespace, whose process 1 this is. As process 1 itself the
    agent would ignore signals at their default, and `abort` would misreport (pid_namespaces(7)).
    """
    if confinement.status_fd < 0:
        return
    agent = os.fork()
    if agent != 0:
        _be_init(agent, confinement.status_fd)
    os.close(confinement.status_fd)


def _be_init(agent: int, status_fd: int) -> None:
    """Reap until the agent's process ends, tell its wait status, and end all others by ending.

    The agent's descriptors are let go first: a pipe that it closes is closed.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent may signal process 1
        os.closerange(0, status_fd)
        while True:
            pid, status = os.wait()
            if pid == agent:
                break
        os.write(status_fd, _STATUS.pack(status))
    finally:
        os._exit(0)


def read_status(status_fd: int) -> int | None:
    """Return what an init told before it ended; None when it was killed. Runs in the zygote."""
    data = os.read(status_fd, _STATUS.size)
    return _STATUS.unpack(data)[0] if len(data) == _STATUS.size else None


def drop_capabilities(_: Confinement) -> None:
    """Give up every capability that the user namespace gave, for ever.

    Before the init forks, so that it is paid once for both.
    """
    linux.drop_every_capability()
