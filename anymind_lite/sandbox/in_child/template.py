"""A template: imports one version, then clones itself for every run of it.

Runs in a child of its own that is hostile from the import on. It stands behind the walls of any
run, and may do one thing more: clone itself as the zygote's own child. What it clones is called
spare until it gets its job: it has put up its walls and waits. Each word on a socket is one byte.

    zygote --- channel: "clone yourself, this socket is its birth" ---> template
    zygote <-- birth: HELLO, and the kernel says from which pid -------- clone
    zygote --- (id maps, scratch folder) GO ---------------------------> clone
    zygote <-- WALLED -------------------------------------------------- spare
    zygote --- report, log, job ---------------------------------------> spare, from now on a run

Code that means well may have patched what is in other modules: what runs after the import is bound
here before it.
"""

import array
import fcntl
import gc
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from anymind_lite.sandbox.in_child import cloning, runner
from anymind_lite.sandbox.in_child.fitness import why_unfit
from anymind_lite.sandbox.in_child.layers import Confinement, layers_for_clone
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.protocol import (
    CHANNEL_FD,
    JOB_FD,
    REPORT_FD,
    SAFE_FD,
    SCRATCH_DIR,
    Job,
    read_job,
)

HELLO, GO, WALLED, READY = b"h", b"g", b"w", b"r"

_RIGHTS_SPACE = socket.CMSG_SPACE(4 * 4)
_chdir, _close, _dup2, _getcwd, _urandom = os.chdir, os.close, os.dup2, os.getcwd, os.urandom
_fcntl = fcntl.fcntl


def be_template(job: Job, confinement: Confinement, thread_id_place: int) -> None:
    """Import the entrypoint and serve the zygote; returns when it hung up, or in a run at its end.

    The import is reported like that of a build, or as unfit to be cloned.
    """
    channel = socket.socket(fileno=CHANNEL_FD)
    function = runner.import_ahead(job, lambda: why_unfit(confinement.scratch_dir))
    if function is None:
        # To be closed by the exit alone: whose channel hangs up is killed, and how it ends is told.
        channel.detach()
        return
    gc.collect()
    gc.freeze()
    channel.send(READY)
    birth = _serve(channel, thread_id_place)
    if birth is not None:
        _be_spare(birth, function, replace(confinement, is_template=False))


def _serve(channel: socket.socket, thread_id_place: int) -> socket.socket | None:
    """Clone whenever asked; return the socket of its birth in every clone, None at the end."""
    while True:
        births = _receive_fds(channel)
        if not births:
            return None
        birth = socket.socket(fileno=births[0])
        try:
            pid = cloning.clone(thread_id_place)
        except OSError:
            pid = -1  # The zygote sees the birth hang up.
        if pid == 0:
            channel.close()
            return birth
        birth.close()


def _be_spare(
    birth: socket.socket, function: Callable[[Any], Any], confinement: Confinement
) -> None:
    """Put up the walls of a run, wait for a job, carry it out."""
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or the zygote could not write the id maps (proc(5))
    birth.send(HELLO)
    if birth.recv(1) != GO:
        return
    for layer in layers_for_clone(confinement):
        layer.apply(confinement)
    if _getcwd() == SCRATCH_DIR:
        _chdir(SCRATCH_DIR)  # a new folder stands on top of the one where the template is
    birth.send(WALLED)
    fds = _receive_fds(birth)
    birth.close()
    if fds:
        _lay_out(*fds)
        job, _places = read_job(JOB_FD)
        _draw_new_randomness()
        runner.run_imported(replace(job, code_dir=confinement.code_dir), function)


def _lay_out(report: int, log: int, job: int) -> None:
    """Put a run's descriptors where it expects them; the template's streams print to the log."""
    lifted = [_fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SAFE_FD) for fd in (report, log, job)]
    for fd in (report, log, job):
        _close(fd)
    for fd, target in zip(lifted, (REPORT_FD, 1, JOB_FD), strict=True):
        _dup2(fd, target, inheritable=target == 1)
        if target == 1:
            _dup2(fd, 2)
        _close(fd)


def _receive_fds(sock: socket.socket) -> list[int]:
    """Receive one byte and the descriptors that came with it; none when the other end hung up."""
    data, ancillary, _flags, _address = sock.recvmsg(1, _RIGHTS_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary if data else ():
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content)
    return list(fds)


def _draw_new_randomness() -> None:
    """Give this run random numbers of its own where a clone repeats the template's.

    `random` sees to itself when it is forked, `tempfile` and `uuid` ask for the pid or the kernel.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    openssl = sys.modules.get("_ssl")
    if openssl is not None:
        openssl.RAND_add(_urandom(32), 32.0)
