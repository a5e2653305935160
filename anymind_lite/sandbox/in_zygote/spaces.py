"""The namespaces that the zygote and all children stand in.

Runs in the stub. A root server first becomes a user of no other use: root's files, and limits that
the kernel never enforces for root, are out of the way then.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Callable

from anymind_lite.sandbox.in_child.layers import Confinement, Walls, layers_for, posix
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_zygote.attempts import in_child
from anymind_lite.sandbox.in_zygote.root_folder import enter_new_root, find_runtime
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import (
    CODE_PARENT,
    INNER_GID,
    INNER_UID,
    SAFE_FD,
    SANDBOX_UID,
    SCRATCH_DIR,
    Need,
)

_HOST_NAME = "sandbox"
_NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)


def enter_namespaces() -> int:
    """Enter the namespaces; the next fork is process 1. Returns a descriptor of the host's /proc.

    The working folder is the parent of all unpacked code. Raises OSError.
    """
    runtime = find_runtime()
    proc_fd = _open_proc()
    code_dir = "."
    if os.geteuid() == 0:
        linux.unshare(linux.CLONE_NEWNS)
        enter_new_root(runtime, code_dir, is_last=False)
        become_sandbox_user(CODE_PARENT)
        code_dir = CODE_PARENT
    ids = os.geteuid(), os.getegid()
    _unshare_all()
    linux.give_up_setgroups(proc_fd)
    linux.write_id_maps(proc_fd, INNER_UID, INNER_GID, ids)
    enter_new_root(runtime, code_dir, is_last=True)
    linux.set_host_name(_HOST_NAME)
    linux.count_capabilities()
    return proc_fd


def _open_proc() -> int:
    """Open the host's /proc: id maps are written through it, as the new root has none.

    A /proc of our own would do too, but is refused wherever the host's is masked in part. Every
    child closes the descriptor before agent code runs. (test_agent_holds_only_its_own_descriptors)
    """
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SAFE_FD)
    finally:
        os.close(fd)


def become_sandbox_user(code_dir: str) -> None:
    """Leave root for good; what is read next must be open to everyone. Raises OSError."""
    posix.leave_root()
    # A change of uid clears it, and the id maps of an undumpable process are root's (proc(5)).
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
    if not os.access(os.__file__, os.R_OK):
        where = os.path.dirname(os.__file__)
        raise PermissionError(
            errno.EACCES,
            f"uid {SANDBOX_UID} may not read Python in {where}: start the server with one that "
            "everybody may read, such as the system's, or as an ordinary user",
        )
    if not os.access(code_dir, os.X_OK):
        raise PermissionError(
            errno.EACCES,
            f"uid {SANDBOX_UID} may not enter {code_dir}: put DATA_DIR where it can pass, or start "
            "the server as an ordinary user",
        )


def _unshare_all() -> None:
    try:
        linux.unshare(_NAMESPACES | linux.CLONE_NEWCGROUP)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        linux.unshare(_NAMESPACES)  # a kernel without cgroup namespaces


def probe(find_walls: Callable[[], Walls]) -> None:
    """Enter all of it, a run's own layers too; for a throw-away child. Raises OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "this is no Linux")
    proc_fd = enter_namespaces()
    confinement = Confinement(
        Limits(), SCRATCH_DIR, parent_pid=1, walls=find_walls(), code_name=".", proc_fd=proc_fd
    )

    def be_a_run() -> None:
        own_pids_fd = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        linux.unshare(linux.CLONE_NEWPID)
        linux.setns(own_pids_fd, linux.CLONE_NEWPID)
        posix.refuse_new_privileges(confinement)  # without it system calls cannot be filtered
        for layer in layers_for(confinement):
            if layer.need is not Need.NOTHING:
                layer.apply(confinement)

    found = in_child(be_a_run)
    if found["text"]:
        raise OSError(found["errno"], found["text"])
