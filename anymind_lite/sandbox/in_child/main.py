"""The child: from the fork to the exit, in order.

Runs in the child, trusted until `runner.run` imports the entrypoint. Nothing returns from
`child_main`, and the zygote's loop is no longer on the stack when it is called.
"""

import fcntl
import gc
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from anymind_lite.sandbox.in_child import runner, template
from anymind_lite.sandbox.in_child.layers import Confinement, Layer, Walls, layers_for
from anymind_lite.sandbox.protocol import (
    CHANNEL_FD,
    JOB_FD,
    REPORT_FD,
    SAFE_FD,
    Job,
    Mode,
    ReportKind,
    read_job,
)

# Agent code shares the modules and may have replaced what stands in them.
# (test_agent_cannot_return_from_the_child)
_exit, _getpid, _kill = os._exit, os.getpid, os.kill


@dataclass(frozen=True)
class Birth:
    """What a child gets from the zygote at the fork.

    `proc_fd` is at least SAFE_FD, and -1 without namespaces. With an init the child is in its pid
    namespace, and may start processes. A `channel_fd` makes it a template, which may not, and for
    which `thread_id_place` is what `cloning` found.
    """

    report_fd: int
    log_fd: int
    job_fd: int
    zygote_pid: int
    walls: Walls
    proc_fd: int = -1
    cgroup_fd: int = -1
    has_init: bool = False
    channel_fd: int = -1
    thread_id_place: int = 0


def child_main(birth: Birth) -> NoReturn:
    """Take the descriptors, apply every layer, run the job, exit."""
    try:
        _reset_signals()
        cgroup_fd = _lift(birth.cgroup_fd) if birth.walls.has_cgroups else -1
        is_template = birth.channel_fd >= 0
        channel_fd = _lift(birth.channel_fd) if is_template else -1
        _lay_out_descriptors(birth.report_fd, birth.log_fd, birth.job_fd)
        if is_template:
            os.dup2(channel_fd, CHANNEL_FD, inheritable=False)
        job, places = read_job(JOB_FD)
        confinement = Confinement(
            limits=job.limits,
            scratch_dir=places.scratch_dir,
            # A parent outside of the pid namespace is 0 in it.
            parent_pid=0 if birth.has_init or is_template else birth.zygote_pid,
            walls=birth.walls,
            code_dir=job.code_dir,
            code_name=places.code_name,
            cgroup_fd=cgroup_fd,
            proc_fd=birth.proc_fd,
            has_init=birth.has_init,
            is_template=is_template,
        )
        if _confine(confinement, layers_for(confinement)):
            _open_standard_streams()
            gc.enable()
            if is_template:
                template.be_template(job, confinement, birth.thread_id_place)
            else:
                _run(job)
        code = 0
    except BaseException:  # noqa: BLE001 - an edge: the parent sees the exit without a frame
        code = 70  # EX_SOFTWARE (sysexits.h)
    _end(code)


def _end(code: int) -> NoReturn:
    """Exit, whatever agent code has made of this process; by SIGKILL if all else fails."""
    while True:
        try:
            _exit(code)
        except BaseException:  # noqa: BLE001, S110 - such as from a signal handler of the agent's
            pass
        try:
            _kill(_getpid(), signal.SIGKILL)
        except BaseException:  # noqa: BLE001, S110 - as above
            pass


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _lift(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SAFE_FD)


def _lay_out_descriptors(report_fd: int, log_fd: int, job_fd: int) -> None:
    """Put nothing on 0, the log on 1 and 2, the report on 3 and the job on 4."""
    # Lift all out of the way first: a source may stand where a target goes.
    report, log, job = (_lift(fd) for fd in (report_fd, log_fd, job_fd))
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # The report and the job close on exec: they are the runner's alone.
    for source, target in ((report, REPORT_FD), (job, JOB_FD)):
        os.dup2(source, target, inheritable=False)


def _confine(confinement: Confinement, layers: Iterable[Layer]) -> bool:
    """Apply the layers in order; on a failure report which and return False."""
    for layer in layers:
        try:
            layer.apply(confinement)
        except (OSError, ValueError) as exc:
            runner.report(
                ReportKind.SANDBOX_FAILURE, message=f"layer {layer.name}: {exc}", layer=layer.name
            )
            return False
    return True


def _open_standard_streams() -> None:
    """Line-buffered, so that what was printed before a kill is kept; no text can fail to print."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(  # noqa: SIM115
        1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def _run(job: Job) -> None:
    if job.mode is Mode.PROBE:
        runner.report(ReportKind.PROBED)
    else:
        runner.run(job)
