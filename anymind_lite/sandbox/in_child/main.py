"""The child: from the fork to the exit, in order.

Runs in the child, trusted until `runner.run` imports the entrypoint. Nothing returns from
`child_main`: falling back into the zygote's loop would make two zygotes.
"""

import fcntl
import gc
import os
import signal
import sys
from typing import NoReturn

from anymind_lite.sandbox.in_child import runner
from anymind_lite.sandbox.in_child.layers import LAYERS, Confinement
from anymind_lite.sandbox.protocol import JOB_FD, REPORT_FD, Job, Mode, ReportKind, read_job

_SAFE_FD = 10


def child_main(report_fd: int, log_fd: int, job_fd: int, *, zygote_pid: int) -> NoReturn:
    """Take the descriptors, apply every layer, run the job, exit."""
    try:
        _reset_signals()
        _lay_out_descriptors(report_fd, log_fd, job_fd)
        job, scratch_dir = read_job(JOB_FD)
        if _confine(job, scratch_dir, zygote_pid):
            _open_standard_streams()
            gc.enable()
            _run(job)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - an edge: the parent sees the exit without a frame
        os._exit(70)  # EX_SOFTWARE (sysexits.h)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _lay_out_descriptors(report_fd: int, log_fd: int, job_fd: int) -> None:
    """Put nothing on 0, the log on 1 and 2, the report on 3 and the job on 4."""
    # Lift all out of the way first: a source may stand where a target goes.
    sources = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD) for fd in (report_fd, log_fd, job_fd)
    ]
    report, log, job = sources
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # The report and the job close on exec: they are the runner's alone.
    for source, target in ((report, REPORT_FD), (job, JOB_FD)):
        os.dup2(source, target, inheritable=False)


def _confine(job: Job, scratch_dir: str, zygote_pid: int) -> bool:
    """Apply the layers in order; on a failure report which and return False."""
    confinement = Confinement(job.limits, scratch_dir, zygote_pid)
    for layer in LAYERS:
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
        from anymind_lite.sandbox.in_child.probe import find_offers

        layers = [{"name": layer.name, "note": layer.promise} for layer in LAYERS]
        runner.report(ReportKind.PROBED, layers=layers, offers=find_offers())
    else:
        runner.run(job)
