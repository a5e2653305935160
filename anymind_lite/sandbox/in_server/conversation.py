"""One job's conversation: its descriptors on the server's side, and what came through them.

Runs in the server, in the thread that asked for the job. What comes from the child is hostile: it
is read here in bounded amounts, and understood in `outcome`.
"""

import os
import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from anymind_lite.sandbox.in_server.cgroup import RunCgroup
from anymind_lite.sandbox.in_server.log_buffer import LogBuffer
from anymind_lite.sandbox.in_server.outcome import Observed, max_report_bytes
from anymind_lite.sandbox.in_server.scratch import HostScratch
from anymind_lite.sandbox.in_server.usage import Usage, usage_of
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import (
    Ground,
    Job,
    Mode,
    ask_to_end,
    hang_up,
    has_begun,
    receive_message,
    send_message,
    withdraw_job,
)

_READ_BYTES = 1 << 16
# The zygote keeps the deadline; this much later the supervisor kills by itself, and this much
# later still it takes the zygote for broken.
_OWN_KILL_SECONDS = 2.0
_ZYGOTE_GRACE_SECONDS = 8.0
_SCRATCH_LOOK_SECONDS = 0.2


class Conversation:
    """One job's descriptors on the server's side, and what came through them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._resources = ExitStack()
        self._pipes = self._resources.enter_context(ExitStack())
        self._log = LogBuffer(limits.log_kept_bytes)
        self._report = bytearray()
        self._max_report_bytes = max_report_bytes(limits)
        self._lease: socket.socket | None = None
        self._job_fd: int | None = None
        self._pidfd: int | None = None
        self._exit: dict[str, int] | None = None
        self._failure = ""
        self._is_lost = False  # its zygote ended without a word of how the job did
        self.ground: Ground | None = None  # what the job runs on, once it was handed over
        self.scratch: HostScratch | None = None  # where the run cannot have one of its own
        self._next_scratch_look = 0.0
        self.cgroup: RunCgroup | None = None
        self.ended = threading.Event()
        self._is_cancelled = False
        self._is_given_up = False  # the kill was asked for, maybe before there was a lease
        self._is_log_flood = False
        self._scratch_fault = ""
        self._is_overdue = False
        self._born_at: float | None = None
        self._is_ready = False  # of a template: it has imported, and stays
        self.is_warm = False  # it runs in a clone of a template

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def hand_over(
        self,
        control: socket.socket,
        job: Job,
        ground: Ground,
        text: bytes,
        template: int | None = None,
    ) -> None:
        """Make the pipes and the lease, and pass the other ends to the zygote. Raises OSError.

        `template` numbers the template that may run it; of a job that is to be one, itself.
        """
        with ExitStack() as theirs:
            self._report_fd, report_end = self._pipe(theirs)
            self._log_fd, log_end = self._pipe(theirs)
            self._lease, lease_end = socket.socketpair()
            self._resources.enter_context(self._lease)
            theirs.enter_context(lease_end)
            self._job_fd = _anonymous_file(text)
            self._pipes.callback(os.close, self._job_fd)
            fds = [lease_end.fileno(), report_end, log_end, self._job_fd]
            fds += [self.cgroup.procs_fd] if self.cgroup else []
            message: dict[str, object] = {
                "wall_seconds": self._limits.wall_seconds,
                "has_init": ground.gives_init(job),
            }
            if job.mode is Mode.TEMPLATE:
                scratch = [self._limits.scratch_bytes, self._limits.scratch_files]
                most = [self._limits.processes, self._limits.open_files]
                message |= {"makes": template, "scratch": scratch, "most": most, "spares": 1}
            elif template is not None:
                message |= {"template": template, "cpu_seconds": self._limits.cpu_seconds}
            send_message(control, message, fds)
            self.ground = ground
        if self._is_given_up:
            self._hang_up()

    def _pipe(self, theirs: ExitStack) -> tuple[int, int]:
        readable, writable = os.pipe()
        self._pipes.callback(os.close, readable)
        theirs.callback(os.close, writable)
        os.set_blocking(readable, False)
        return readable, writable

    def cancel(self, grace_seconds: float = 0.0) -> None:
        """Ask for the end; `drive` goes on until the exit is seen.

        Only agent code gets a grace, and only one. Not for two threads at once.
        """
        is_first, self._is_cancelled = not self._is_cancelled, True
        if grace_seconds <= 0 or self._lease is None or not self._has_begun():
            self._hang_up()
        elif is_first:
            ask_to_end(self._lease, grace_seconds)

    def _has_begun(self) -> bool:
        return self._job_fd is not None and has_begun(self._job_fd)

    def _hang_up(self) -> None:
        self._is_given_up = True
        if self._lease is not None:
            hang_up(self._lease)

    def drive(self, kill_zygote: Callable[[], None]) -> None:
        """Read everything until the zygote reports the exit, or has failed to."""
        lease = self._lease
        if lease is None:
            return
        poller = select.poll()
        for fd in (lease.fileno(), self._report_fd, self._log_fd):
            poller.register(fd, select.POLLIN)
        overdue_at = time.monotonic() + self._limits.wall_seconds + _OWN_KILL_SECONDS
        while self._exit is None and not self._failure and not self._is_ready:
            for fd, _event in poller.poll(self._wait_ms(overdue_at)):
                self._read(fd, lease, poller)
            self._check_scratch()
            if time.monotonic() >= overdue_at:
                overdue_at += _ZYGOTE_GRACE_SECONDS
                self._escalate(kill_zygote)
        self._next_scratch_look = 0.0  # what was left at the end counts as well
        self._check_scratch()
        # A descendant may hold the pipes open for ever: read what is there, never wait for the end.
        self._drain(self._report_fd)
        self._drain(self._log_fd)

    def withdraw(self) -> bool:
        """Take the job back from a zygote that ended before anybody had read it.

        Returns False where that cannot be known, and for a job that somebody wants to end: it has
        no other try. Call it when `cancel` cannot reach the job any more.
        """
        if not self._is_lost or self._is_cancelled or self._is_given_up or self._is_overdue:
            return False
        return self._job_fd is not None and withdraw_job(self._job_fd)

    def _wait_ms(self, overdue_at: float) -> float:
        seconds = overdue_at - time.monotonic()
        if self.scratch is not None:
            seconds = min(seconds, _SCRATCH_LOOK_SECONDS)
        return max(0.0, seconds) * 1000

    def _check_scratch(self) -> None:
        """End a run that outgrew a scratch folder which no kernel bounds."""
        now = time.monotonic()
        if self.scratch is None or self._scratch_fault or now < self._next_scratch_look:
            return
        self._next_scratch_look = now + _SCRATCH_LOOK_SECONDS
        self._scratch_fault = self.scratch.fault(self._limits)
        if self._scratch_fault:
            self._hang_up()

    def _read(self, fd: int, lease: socket.socket, poller: select.poll) -> None:
        if fd == lease.fileno():
            self._read_lease(lease)
        elif not self._read_pipe(fd):
            poller.unregister(fd)

    def _read_lease(self, lease: socket.socket) -> None:
        try:
            message, fds = receive_message(lease)
        except (EOFError, OSError):
            self._is_lost = True
            self._failure = "The sandbox ended unexpectedly."
            self._kill_child()
            return
        if "pid" in message and self._born_at is None:
            self._born_at = time.monotonic()
        if fds:
            self._pidfd = fds[0]
            self._resources.callback(os.close, fds[0])
        self.is_warm = self.is_warm or bool(message.get("warm"))
        if "ready" in message:
            self._is_ready = True
        elif "error" in message:
            self._failure = f"The sandbox could not start the agent ({message['error']})."
        elif "status" in message:
            self._exit = message

    def _read_pipe(self, fd: int) -> bool:
        """Read once; return False at the end of the stream."""
        try:
            chunk = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        if fd == self._report_fd:
            self._append_to_report(chunk)
        else:
            self._log.append(chunk)
            self._check_flood()
        return bool(chunk)

    def _append_to_report(self, chunk: bytes) -> None:
        """Take a report up to one byte more than is accepted; then there is nothing to wait for."""
        room = self._max_report_bytes + 1 - len(self._report)
        if 0 < room <= len(chunk):
            self._hang_up()
        self._report += chunk[:room]

    def _check_flood(self) -> None:
        if self._log.written_bytes > self._limits.log_written_bytes and not self._is_log_flood:
            self._is_log_flood = True
            self._hang_up()

    def _drain(self, fd: int) -> None:
        while not self._is_log_flood:
            before = self._log.written_bytes + len(self._report)
            if not self._read_pipe(fd) or before == self._log.written_bytes + len(self._report):
                return

    def _escalate(self, kill_zygote: Callable[[], None]) -> None:
        """The zygote missed the deadline: kill the child ourselves, then the zygote."""
        if self._is_overdue:
            kill_zygote()
            return
        self._is_overdue = True
        self._hang_up()
        self._kill_child()

    def _kill_child(self) -> None:
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def keep_lease_alone(self) -> socket.socket:
        """Close the pipes of a template, to which nobody listens any more; return its lease."""
        if self._lease is None or not self._is_ready:
            raise RuntimeError("this is no template that stands")
        self._pipes.close()
        return self._lease

    def usage(self) -> Usage | None:
        """Return what the process uses, None when it is gone."""
        return None if self._pidfd is None else usage_of(self._pidfd)

    def observed(self, failure: str, started_at: float) -> Observed:
        """Return what was seen.

        A zygote that had to be killed could not tell how an overdue job ended. If the agent had
        started and never reported it is a timeout nevertheless.
        """
        seen = self._exit or {}
        # In a clone agent code has run before: nothing that is reported is ours.
        begun = self.is_warm or self._has_begun()
        has_outrun = self._is_overdue and self._pidfd is not None and begun and not self._report
        return Observed(
            status=seen.get("status"),
            report=bytes(self._report),
            has_begun=begun,
            logs=self._log.text(),
            is_timed_out=self._is_overdue or bool(seen.get("timed_out")),
            is_cancelled=self._is_cancelled,
            is_log_flood=self._is_log_flood,
            scratch_fault=self._scratch_fault,
            is_out_of_memory=self.cgroup is not None and self.cgroup.ran_out_of_memory(),
            failure=failure or ("" if has_outrun else self._failure),
            cpu_ms=seen.get("cpu_ms", 0),
            max_rss_kb=seen.get("max_rss_kb", 0),
            duration_ms=round((time.monotonic() - started_at) * 1000),
            start_ms=_milliseconds(started_at, self._born_at),
            wall_ms=_milliseconds(self._born_at, time.monotonic()),
        )


def _milliseconds(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round((end - begin) * 1000, 1)


def _anonymous_file(content: bytes) -> int:
    """Return a descriptor, at its start, of a file without a name that holds the content."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("job", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
