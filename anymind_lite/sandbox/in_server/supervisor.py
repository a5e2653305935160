"""The supervisor: the server's owner of the zygote and of every running job.

Runs in the server, which holds secrets. Each job is driven by the thread that asked for it; a
thread of the supervisor's own only replaces a zygote that died.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anymind_lite.files import remove_tree
from anymind_lite.sandbox.in_server.log_buffer import LogBuffer
from anymind_lite.sandbox.in_server.outcome import (
    Observed,
    Outcome,
    max_report_bytes,
    read_outcome,
)
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import (
    Job,
    encode_job,
    receive_message,
    send_message,
)

logger = logging.getLogger(__name__)

_ZYGOTE_PATH = Path(__file__).parent.parent / "in_zygote" / "main.py"
_READ_BYTES = 1 << 16
# The zygote keeps the deadline; this much later the supervisor kills by itself, and this much
# later still it takes the zygote for broken.
_OWN_KILL_SECONDS = 2.0
_ZYGOTE_GRACE_SECONDS = 8.0
_STOP_SECONDS = 5.0
_RESPAWN_PAUSE_SECONDS = 0.2


class Supervisor:
    """Runs jobs in children of one zygote, and replaces the zygote when it dies.

    `scratch_parent` is a folder for the jobs' scratch folders, emptied at start.
    """

    def __init__(self, scratch_parent: Path) -> None:
        self._scratch_parent = scratch_parent
        self._lock = threading.Lock()
        self._conversations: dict[str, _Conversation] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Start the zygote; call it before the process has other threads."""
        remove_tree(self._scratch_parent)
        self._scratch_parent.mkdir(parents=True, mode=0o700)
        self._is_stopping = False
        self._spawn()
        self._watcher = threading.Thread(
            target=self._replace_dead_zygotes, name="zygote-watch", daemon=True
        )
        self._watcher.start()

    def stop(self) -> None:
        """Kill every job and the zygote, and wait until they are gone."""
        self._is_stopping = True
        with self._lock:
            process, control = self._process, self._control
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            self._watcher.join()
        remove_tree(self._scratch_parent)

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, for diagnosis."""
        return self._process.pid if self._process else None

    def run(
        self,
        job: Job,
        payload: bytes = b"null",
        *,
        key: str,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Outcome:
        """Run one job to its end in the calling thread.

        `payload` is JSON text; `key` names the job for `cancel` and is unique among running ones.
        `is_wanted` is asked once, when `cancel` can already reach the job: who decides elsewhere
        that the job is off and then calls `cancel` is obeyed whichever comes first.
        Returns within the wall limit and a few seconds, whatever the agent does.
        """
        started_at = time.monotonic()
        with self._scratch_dir() as scratch_dir, _Conversation(job.limits) as conversation:
            with self._registered(key, conversation):
                failure = ""
                if is_wanted():
                    job_text = encode_job(job, str(scratch_dir), payload)
                    failure = self._hand_over(conversation, job_text)
                else:
                    conversation.cancel()
                if not failure:
                    conversation.drive(self._kill_zygote)
            seen = conversation.observed(failure, started_at)
        return read_outcome(seen, job.limits, job.mode)

    def cancel(self, key: str) -> bool:
        """Kill a running job with all its processes; return whether there was one.

        Returns when the job is over, or after a few seconds if even the kill does not end it.
        """
        with self._lock:
            conversation = self._conversations.get(key)
            if conversation is None:
                return False
            conversation.cancel()
        conversation.ended.wait(_STOP_SECONDS)
        return True

    @contextmanager
    def _scratch_dir(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._scratch_parent))
        try:
            yield path
        finally:
            try:
                remove_tree(path)
            except OSError:
                logger.exception("event=scratch_not_removed path=%s", path)

    @contextmanager
    def _registered(self, key: str, conversation: "_Conversation") -> Iterator[None]:
        with self._lock:
            self._conversations[key] = conversation
        try:
            yield
        finally:
            with self._lock:
                del self._conversations[key]
            conversation.ended.set()

    def _hand_over(self, conversation: "_Conversation", job: bytes) -> str:
        """Send the job to the zygote; return what went wrong, or nothing."""
        with self._lock:
            if self._is_stopping or self._control is None:
                return "The server is stopping."
            try:
                conversation.hand_over(self._control, job)
            except OSError as exc:
                return f"The sandbox could not take the job ({exc.strerror})."
        return ""

    def _spawn(self) -> None:
        with self._lock:
            if self._is_stopping:
                return
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_ZYGOTE_PATH), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the server's terminal is not for the zygote
                )

    def _replace_dead_zygotes(self) -> None:
        while True:
            process, control = self._process, self._control
            if process is None or control is None:
                return
            status = process.wait()
            if self._is_stopping:
                return
            control.close()
            logger.error("event=zygote_died status=%s", status)
            time.sleep(_RESPAWN_PAUSE_SECONDS)
            self._spawn()

    def _kill_zygote(self) -> None:
        logger.error("event=zygote_unresponsive")
        with self._lock:
            if self._process is not None:
                self._process.kill()


class _Conversation:
    """One job's descriptors on the server's side, and what came through them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._resources = ExitStack()
        self._log = LogBuffer(limits.log_kept_bytes)
        self._report = bytearray()
        self._max_report_bytes = max_report_bytes(limits)
        self._lease: socket.socket | None = None
        self._pidfd: int | None = None
        self._exit: dict[str, int] | None = None
        self._failure = ""
        self.ended = threading.Event()
        self._is_cancelled = False
        self._is_log_flood = False
        self._is_overdue = False

    def __enter__(self) -> "_Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def hand_over(self, control: socket.socket, job: bytes) -> None:
        """Make the pipes and the lease, and pass the other ends to the zygote. Raises OSError."""
        with ExitStack() as theirs:
            self._report_fd, report_end = self._pipe(theirs)
            self._log_fd, log_end = self._pipe(theirs)
            self._lease, lease_end = socket.socketpair()
            self._resources.enter_context(self._lease)
            theirs.enter_context(lease_end)
            job_fd = _anonymous_file(job)
            theirs.callback(os.close, job_fd)
            fds = [lease_end.fileno(), report_end, log_end, job_fd]
            send_message(control, {"wall_seconds": self._limits.wall_seconds}, fds)
        if self._is_cancelled:
            self._hang_up()

    def _pipe(self, theirs: ExitStack) -> tuple[int, int]:
        readable, writable = os.pipe()
        self._resources.callback(os.close, readable)
        theirs.callback(os.close, writable)
        os.set_blocking(readable, False)
        return readable, writable

    def cancel(self) -> None:
        """Ask for the kill; `drive` goes on until the exit is seen."""
        self._is_cancelled = True
        self._hang_up()

    def _hang_up(self) -> None:
        # Half of it: the zygote reads the end of the stream, kills, and can still answer.
        if self._lease is not None:
            try:
                self._lease.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # The zygote has closed it: the job is over.

    def drive(self, kill_zygote: Callable[[], None]) -> None:
        """Read everything until the zygote reports the exit, or has failed to."""
        lease = self._lease
        if lease is None:
            return
        poller = select.poll()
        for fd in (lease.fileno(), self._report_fd, self._log_fd):
            poller.register(fd, select.POLLIN)
        overdue_at = time.monotonic() + self._limits.wall_seconds + _OWN_KILL_SECONDS
        while self._exit is None and not self._failure:
            wait_ms = max(0.0, overdue_at - time.monotonic()) * 1000
            for fd, _event in poller.poll(wait_ms):
                self._read(fd, lease, poller)
            if time.monotonic() >= overdue_at:
                overdue_at += _ZYGOTE_GRACE_SECONDS
                self._escalate(kill_zygote)
        # A descendant may hold the pipes open for ever: read what is there, never wait for the end.
        self._drain(self._report_fd)
        self._drain(self._log_fd)

    def _read(self, fd: int, lease: socket.socket, poller: select.poll) -> None:
        if fd == lease.fileno():
            self._read_lease(lease)
        elif not self._read_pipe(fd):
            poller.unregister(fd)

    def _read_lease(self, lease: socket.socket) -> None:
        try:
            message, fds = receive_message(lease)
        except (EOFError, OSError):
            self._failure = "The sandbox ended unexpectedly."
            self._kill_child()
            return
        if fds:
            self._pidfd = fds[0]
            self._resources.callback(os.close, fds[0])
        if "error" in message:
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
            self._report += chunk[: self._max_report_bytes + 1 - len(self._report)]
        else:
            self._log.append(chunk)
            self._check_flood()
        return bool(chunk)

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

    def observed(self, failure: str, started_at: float) -> Observed:
        """Return what was seen."""
        seen = self._exit or {}
        return Observed(
            status=seen.get("status"),
            report=bytes(self._report),
            logs=self._log.text(),
            is_timed_out=self._is_overdue or bool(seen.get("timed_out")),
            is_cancelled=self._is_cancelled,
            is_log_flood=self._is_log_flood,
            failure=failure or self._failure,
            cpu_ms=seen.get("cpu_ms", 0),
            max_rss_kb=seen.get("max_rss_kb", 0),
            duration_ms=round((time.monotonic() - started_at) * 1000),
        )


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
