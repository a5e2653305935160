"""The namespaces that the zygote and all children stand in, and whether there can be any.

Runs in the stub. A root server first becomes a user of no other use: root's files, and limits that
the kernel never enforces for root, are out of the way then.
"""

import errno
import fcntl
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

from anymind_lite.sandbox.in_child.layers import LAYERS, Confinement, posix
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_zygote.root_folder import enter_new_root, find_runtime
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import (
    CODE_PARENT,
    INNER_GID,
    INNER_UID,
    SAFE_FD,
    SANDBOX_GID,
    SANDBOX_UID,
    SCRATCH_DIR,
)

_HOST_NAME = "sandbox"
_PROBE_SECONDS = 10.0
_NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
)
# How a kernel, a container runtime or AppArmor says no: any other error is ours, not the machine's.
REFUSALS = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENOSPC,  # user.max_user_namespaces
    errno.EUSERS,
    errno.ENODEV,
}


class Refused(Exception):
    """The machine does not let us; the text says what and why."""


class SetUpFailed(Exception):
    """The namespaces failed in a way that nobody foresaw; the text says how."""


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
        _become_sandbox_user()
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


def _become_sandbox_user() -> None:
    """Leave root for good; the files that Python reads next must be open to everyone."""
    try:
        os.setgroups([])
        os.setresgid(SANDBOX_GID, SANDBOX_GID, SANDBOX_GID)
        os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
    except OSError as exc:
        raise OSError(exc.errno, f"becoming uid {SANDBOX_UID}: {exc.strerror}") from exc
    # A change of uid clears it, and the id maps of an undumpable process are root's (proc(5)).
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    if not os.access(os.__file__, os.R_OK):
        where = os.path.dirname(os.__file__)
        raise PermissionError(errno.EACCES, f"uid {SANDBOX_UID} may not read Python in {where}")
    if not os.access(CODE_PARENT, os.X_OK):
        raise PermissionError(errno.EACCES, f"uid {SANDBOX_UID} may not enter the code folder")


def _unshare_all() -> None:
    try:
        linux.unshare(_NAMESPACES | linux.CLONE_NEWCGROUP)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        linux.unshare(_NAMESPACES)  # a kernel without cgroup namespaces


def probe() -> str:
    """Try all of it in a throw-away child, a run's own layers too; return as whom it works.

    Raises Refused where the machine does not let us, and SetUpFailed for everything else.
    """
    if sys.platform != "linux":
        raise Refused("this is no Linux")
    found = _in_child(_try_everything)
    if found["errno"] in REFUSALS:
        raise Refused(found["text"])
    if found["text"]:
        raise SetUpFailed(found["text"])
    return f"uid {SANDBOX_UID}" if os.geteuid() == 0 else f"uid {os.geteuid()}"


def _try_everything() -> None:
    proc_fd = enter_namespaces()
    confinement = Confinement(Limits(), SCRATCH_DIR, parent_pid=1, code_name=".", proc_fd=proc_fd)

    def be_a_run() -> None:
        own_pids_fd = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        linux.unshare(linux.CLONE_NEWPID)
        linux.setns(own_pids_fd, linux.CLONE_NEWPID)
        posix.refuse_new_privileges(confinement)  # without it the system calls cannot be filtered
        for layer in LAYERS:
            if layer.needs_namespaces and layer.is_offered():
                layer.apply(confinement)

    found = _in_child(be_a_run)
    if found["text"]:
        raise OSError(found["errno"], found["text"])


def _in_child(action: Callable[[], None]) -> dict[str, Any]:
    """Do something in a fork; return what it raised as errno and text, 0 and "" if nothing."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report_attempt(action, writable)
    os.close(writable)
    try:
        is_told = select.select([readable], [], [], _PROBE_SECONDS)[0]
        text = os.read(readable, 4096) if is_told else b""
    finally:
        os.close(readable)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    unsaid = {"errno": 0, "text": "the attempt ended without a word" if is_told else "it hangs"}
    return json.loads(text) if text else unsaid


def _report_attempt(action: Callable[[], None], writable: int) -> None:
    found: dict[str, Any] = {"errno": 0, "text": ""}
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        action()
    except OSError as exc:
        found = {"errno": exc.errno or 0, "text": exc.strerror or str(exc)}
    except BaseException as exc:  # noqa: BLE001 - an edge: the parent hears of it
        found = {"errno": 0, "text": f"{type(exc).__name__}: {exc}"}
    os.write(writable, json.dumps(found).encode())
    os._exit(0)
