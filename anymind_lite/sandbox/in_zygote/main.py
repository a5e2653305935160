"""The zygote: waits for jobs, forks a child for each, ends what must end, reports each exit.

Runs as a process of its own, started by path (`python -I -S main.py FD`) with an empty
environment. It holds no secret, has one thread, and reads from the server alone: what a child
writes goes past it. Everything it waits for comes through one selector.
"""

import gc
import os
import selectors
import signal
import site
import socket
import sys
import time
from typing import Any

_PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
if __name__ == "__main__":
    sys.path.insert(0, _PROJECT_DIR)  # -I leaves the script's folder out; removed before serving

from anymind_lite.sandbox.in_child.layers import posix
from anymind_lite.sandbox.in_child.main import child_main
from anymind_lite.sandbox.protocol import receive_message, send_message

_SWEEP_SECONDS = 5.0
_SWEEP_PAUSE_SECONDS = 0.001


class Run:
    """One child that was forked and has not been reported yet."""

    def __init__(self, pid: int, lease: socket.socket, deadline: float) -> None:
        self.pid = pid
        self.lease = lease
        self.deadline = deadline
        self.is_killed = False
        self.is_timed_out = False


class Zygote:
    """The one loop that owns all children."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._runs: dict[int, Run] = {}
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._listen_for_exits(), selectors.EVENT_READ)

    def _listen_for_exits(self) -> int:
        """Return a descriptor that becomes readable when a child exits."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        os.set_blocking(writable, False)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._exits = readable
        return readable

    def serve(self) -> None:
        """Serve until the server hangs up."""
        while True:
            for key, _events in self._selector.select(self._seconds_to_next_deadline()):
                if key.fileobj is self._control:
                    if not self._take_job():
                        return
                elif key.fd == self._exits:
                    self._drain_exits()
                elif key.data in self._runs:
                    self._kill(self._runs[key.data])  # the lease was hung up
            self._enforce_deadlines()
            self._reap()

    def stop(self) -> None:
        """Kill every child and whatever they left."""
        for run in self._runs.values():
            self._kill(run)
        self._runs.clear()
        self._sweep()

    def _seconds_to_next_deadline(self) -> float | None:
        waiting = [run.deadline for run in self._runs.values() if not run.is_killed]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _take_job(self) -> bool:
        """Fork a child for the next job; return False when the server hung up."""
        try:
            message, fds = receive_message(self._control)
        except (EOFError, OSError):
            return False
        lease_fd, *child_fds = fds
        lease = socket.socket(fileno=lease_fd)
        try:
            self._start(lease, child_fds, float(message["wall_seconds"]))
        finally:
            for fd in child_fds:
                os.close(fd)
        return True

    def _start(self, lease: socket.socket, child_fds: list[int], wall_seconds: float) -> None:
        try:
            pid = os.fork()
        except OSError as exc:
            _tell(lease, {"error": f"fork: {exc.strerror}"})
            lease.close()
            return
        if pid == 0:
            report_fd, log_fd, job_fd = child_fds
            child_main(report_fd, log_fd, job_fd, zygote_pid=self._pid)
        run = Run(pid, lease, time.monotonic() + wall_seconds)
        self._runs[pid] = run
        self._selector.register(lease, selectors.EVENT_READ, pid)
        pidfds = _open_pidfd(pid)
        _tell(lease, {"pid": pid}, pidfds)
        for fd in pidfds:
            os.close(fd)

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for run in list(self._runs.values()):
            if now >= run.deadline and not run.is_killed:
                run.is_timed_out = True
                self._kill(run)

    def _kill(self, run: Run) -> None:
        """Kill the child and its group; descendants that left the group fall to the sweep."""
        if not run.is_killed:
            run.is_killed = True
            # The lease stays readable after a hang-up: stop looking at it.
            self._selector.unregister(run.lease)
        for kill, target in ((os.killpg, run.pid), (os.kill, run.pid)):
            try:
                kill(target, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # Not yet a group leader, or gone and not yet reaped.

    def _drain_exits(self) -> None:
        try:
            while os.read(self._exits, 4096):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        """Collect every exited child; sweep and report once per run."""
        while True:
            try:
                pid, status, usage = os.wait3(os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._runs:
                self._finish(self._runs.pop(pid), status, usage)

    def _finish(self, run: Run, status: int, usage: Any) -> None:
        """Kill what the run left behind, then report; the order is what "nothing left" rests on."""
        if not run.is_killed:
            self._selector.unregister(run.lease)
        self._sweep()
        _tell(
            run.lease,
            {
                "status": status,
                "timed_out": run.is_timed_out,
                "cpu_ms": int((usage.ru_utime + usage.ru_stime) * 1000),
                "max_rss_kb": usage.ru_maxrss,
            },
        )
        run.lease.close()

    def _sweep(self) -> None:
        """Kill every child of ours that is no run.

        The zygote is the subreaper (prctl(2)): a descendant whose parent died becomes our child,
        whatever session or group it made for itself. Killing one hands us its children in turn,
        hence the loop. (test_leaves_no_process_behind)
        """
        deadline = time.monotonic() + _SWEEP_SECONDS
        while strangers := _children(self._pid) - self._runs.keys():
            for pid in strangers:
                _kill_and_collect(pid)
            if time.monotonic() > deadline:
                # A broken sandbox is destroyed, never repaired: the server starts a new zygote.
                raise RuntimeError(f"{len(strangers)} processes cannot be killed")
            time.sleep(_SWEEP_PAUSE_SECONDS)


def _tell(lease: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    try:
        send_message(lease, message, fds or [])
    except OSError:
        pass  # The server has given the job up.


def _open_pidfd(pid: int) -> list[int]:
    """Return a pidfd for the server's own kill, or nothing where there is none (macOS)."""
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(pid)]
    except OSError:
        return []


def _kill_and_collect(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError, PermissionError):
        pass


def _children(pid: int) -> set[int]:
    """Return the pids of a process's children, zombies too; empty where there is no /proc."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return {int(word) for word in file.read().split()}
    except OSError:
        return _children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN


def _children_by_scan(parent: int) -> set[int]:
    found = set()
    names = os.listdir("/proc") if os.path.isdir("/proc/self") else []
    for name in names:
        if name.isdigit() and _parent_of(int(name)) == parent:
            found.add(int(name))
    return found


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything: fields count from the last one (proc(5)).
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def main() -> None:
    """Prepare once what every child inherits, then serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    sys.path.remove(_PROJECT_DIR)
    sys.argv, sys.orig_argv = [""], [""]  # where the server is installed is no agent's business
    site.setquit()  # -S leaves out exit() and quit(), which people's code calls
    if posix.IS_LINUX:
        posix.prctl(posix.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the server's hang-up ends it
    zygote = Zygote(control)
    # What exists now is never collected, so that children do not copy its pages (gc.freeze).
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        zygote.serve()
    finally:
        zygote.stop()


if __name__ == "__main__":
    main()
