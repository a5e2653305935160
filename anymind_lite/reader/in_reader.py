"""The reader: waits, forks for each reading, guards it, and tells how it ended.

Runs as a process of its own, started by path (`python -I in_reader.py FD`) with an empty
environment. It reads from the server alone and never looks at an archive. Everything that a reading
needs is imported here, ahead: in the fork no module, codec or source file can be opened any more.
"""

import codecs
import gc
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

_PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if __name__ == "__main__":
    sys.path.insert(0, _PROJECT_DIR)  # -I leaves the script's folder out

from anymind_lite.archive import ArchiveLimits
from anymind_lite.reader import in_reading
from anymind_lite.reader.in_reading import Reading, Walls, find_walls
from anymind_lite.sandbox.in_child.layers.posix import die_with_parent
from anymind_lite.sandbox.protocol import receive_message, send_message

# Python imports a codec when it is first used; these are what the readers and `quoted` use.
_CODECS = ("utf-8", "utf-8-sig", "unicode_escape", "latin-1", "ascii")


def main() -> None:
    """Serve the server at the other end of the descriptor, until it hangs up."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # only the server's hang-up ends it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps guards (waitpid(2), NOTES)
    for codec in _CODECS:
        codecs.lookup(codec)
    walls = find_walls()
    gc.collect()
    gc.freeze()
    gc.disable()  # a reading is short, and marking objects would copy the pages that it shares
    while True:
        try:
            message, fds = receive_message(control)
        except (EOFError, OSError):
            return
        _begin(control, walls, message, fds)


def _begin(control: socket.socket, walls: Walls, message: dict[str, Any], fds: list[int]) -> None:
    """Fork a guard; it alone keeps the descriptors that came with the message."""
    parent_pid = os.getpid()
    try:
        if os.fork() == 0:
            control.close()
            _guard(walls, message, fds, parent_pid)
    except OSError as exc:
        with socket.socket(fileno=os.dup(fds[0])) as lease:
            send_message(lease, {"error": f"fork: {exc.strerror}"})
    finally:
        for fd in fds:
            os.close(fd)


def _guard(walls: Walls, message: dict[str, Any], fds: list[int], parent_pid: int) -> NoReturn:
    """Be the parent of one reading: keep its deadline, kill it when the server hangs up."""
    try:
        die_with_parent(parent_pid)
        with socket.socket(fileno=fds[0]) as lease:
            try:
                woken = _wake_at_exit()
                pid = _fork_reading(walls, message, fds)
                end = _wait(pid, lease, woken, message["wall_seconds"])
            except OSError as exc:
                end = {"error": f"guard: {exc}"}
            send_message(lease, end)
    finally:
        os._exit(0)


def _wake_at_exit() -> int:
    """Return a descriptor that can be read when a child has ended."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return woken


def _fork_reading(walls: Walls, message: dict[str, Any], fds: list[int]) -> int:
    guard_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _lease, answer, archive, *folder = fds
        in_reading.read_and_exit(
            Reading(
                answer_fd=answer,
                archive_fd=archive,
                folder_fd=folder[0] if folder else None,
                limits=ArchiveLimits(**message["limits"]),
                cpu_seconds=message["cpu_seconds"],
                guard_pid=guard_pid,
            ),
            walls,
        )
    for fd in fds[1:]:
        os.close(fd)
    return pid


def _wait(pid: int, lease: socket.socket, woken: int, wall_seconds: float) -> dict[str, Any]:
    """Wait for the reading's end, its deadline, or the server's hang-up; then it is gone."""
    deadline = time.monotonic() + wall_seconds
    poller = select.poll()
    poller.register(lease, select.POLLIN)  # the server never writes: it is the hang-up
    poller.register(woken, select.POLLIN)
    is_overdue = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        left = deadline - time.monotonic()
        is_overdue = left <= 0
        events = dict(poller.poll(max(0.0, left) * 1000))
        if is_overdue or lease.fileno() in events:
            os.kill(pid, signal.SIGKILL)
            _pid, status, usage = os.wait4(pid, 0)
            break
        if events:
            os.read(woken, 64)
    return {
        "status": status,
        "is_overdue": is_overdue,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


if __name__ == "__main__":
    main()
