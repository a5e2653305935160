"""Templates: processes that have imported one version and clone themselves for each of its runs.

Runs in the zygote. A template is hostile, and so is every clone: what is heard from them is one
byte at a time, and from whom is for the kernel to say (SCM_CREDENTIALS). The clones are the
zygote's own children, so that it waits for them, kills them and counts them; a template can at most
refuse to serve its own version, which then runs without it.
"""

import array
import os
import selectors
import signal
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_child.layers.linux_namespaces import mount_scratch
from anymind_lite.sandbox.in_child.template import GO, HELLO, READY, WALLED
from anymind_lite.sandbox.protocol import INNER_GID, INNER_UID, send_message

_BIRTH_SECONDS = 5.0
_LOOK_SECONDS = 0.25
_MOST_LOST_SPARES = 3

# What is told of a job's end, and nobody asks of a template.
_UNTOLD = {"cpu_ms": 0, "max_rss_kb": 0}

_CREDENTIALS = struct.Struct("iii")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True)
class Order:
    """One run that is to begin: its lease, the descriptors for its child, what the server said."""

    lease: socket.socket
    fds: list[int]
    message: dict[str, Any]

    def close(self) -> None:
        """Close the descriptors, which the child has of its own by now; the lease stays."""
        for fd in self.fds:
            os.close(fd)


class Spare:
    """A clone without a job. `pid` is -1 until the kernel has told it; a deadline is for that."""

    def __init__(self, birth: socket.socket) -> None:
        self.birth = birth
        self.pid = -1
        self.is_ready = False
        self.deadline = time.monotonic() + _BIRTH_SECONDS


class Template:
    """One template with what it has cloned. The key is the server's name for it."""

    def __init__(
        self, pid: int, init_pid: int, lease: socket.socket, channel: socket.socket
    ) -> None:
        self.pid = pid
        self.init_pid = init_pid
        self.lease = lease
        self.channel = channel
        self.key = 0
        self.scratch = (0, 0)
        self.spares_wanted = 1
        self.deadline = 0.0  # of the import
        self.session = 0  # as /proc numbers it
        self.is_ready = False
        self.is_over = False
        self.spares: list[Spare] = []
        self.processes = {pid}  # itself, its spares and their runs, as far as known and not reaped
        self.waiting: deque[Order] = deque()
        self.lost_spares = 0

    def count_unborn(self) -> int:
        """Return how many clones may exist of which the kernel has not told us yet."""
        return sum(spare.pid < 0 for spare in self.spares)


class Templates:
    """The templates of one zygote, and what becomes of the runs that are ordered from them."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        proc_fd: int,
        *,
        children: set[int],
        begin_run: Callable[[Order, int, Template], None],
        run_without: Callable[[Order], None],
    ) -> None:
        self._selector = selector
        self._proc_fd = proc_fd
        self._children = children  # every child of the zygote that it knows and has not reaped
        self._begin_run = begin_run
        self._run_without = run_without
        self._by_key: dict[int, Template] = {}  # that clone on demand
        self._by_process: dict[int, Template] = {}
        self._by_init: dict[int, Template] = {}  # that have a process, known to us or not
        self._next_look = 0.0
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._mounts_fd = os.open("self/ns/mnt", flags, dir_fd=proc_fd)

    # --- from birth to end ---

    def add(self, template: Template, message: dict[str, Any]) -> None:
        """Take up a template that was just forked."""
        template.key = int(message["makes"])
        scratch_bytes, scratch_files = message["scratch"]
        template.scratch = int(scratch_bytes), int(scratch_files)
        template.spares_wanted = int(message["spares"])
        template.deadline = time.monotonic() + float(message["wall_seconds"])
        template.channel.settimeout(0)
        pidfd = os.pidfd_open(template.pid)
        try:
            template.session = linux.pid_in(self._proc_fd, pidfd)
            _tell(template.lease, {"pid": template.pid}, [pidfd])
        finally:
            os.close(pidfd)
        self._by_key[template.key] = template
        self._by_process[template.pid] = template
        self._by_init[template.init_pid] = template
        register = self._selector.register
        register(template.lease, selectors.EVENT_READ, lambda: self._retire(template))
        register(template.channel, selectors.EVENT_READ, lambda: self._heed(template))

    def order(self, order: Order) -> bool:
        """Begin a run as soon as there is a spare; False where its template cannot give one."""
        template = self._by_key.get(int(order.message.get("template", 0)))
        if template is None or not template.is_ready or template.is_over:
            return False
        template.waiting.append(order)
        self._serve(template)
        return True

    def _heed(self, template: Template) -> None:
        """Hear a template out: it is ready once, and says nothing else."""
        if template.is_over:
            return
        if _receive_word(template.channel)[0] != READY or template.is_ready:
            self.destroy(template)
            return
        template.is_ready = True
        _tell(template.lease, {"ready": True})
        self._serve(template)

    def _serve(self, template: Template) -> None:
        """Give the ready spares to who waits, and ask for as many as are wanting."""
        while template.waiting and not template.is_over:
            spare = next((one for one in template.spares if one.is_ready), None)
            if spare is None:
                break
            self._give(template, spare, template.waiting.popleft())
        wanted = len(template.waiting) + template.spares_wanted
        while len(template.spares) < wanted and not template.is_over:
            self._ask(template)

    def _ask(self, template: Template) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(0)
        with theirs:
            try:
                _send_fds(template.channel, [theirs.fileno()])
            except OSError:  # gone, or it does not read
                ours.close()
                self.destroy(template)
                return
        spare = Spare(ours)
        template.spares.append(spare)
        self._selector.register(
            ours, selectors.EVENT_READ, lambda: self._heed_birth(template, spare)
        )

    def _heed_birth(self, template: Template, spare: Spare) -> None:
        if spare not in template.spares:
            return
        word, pid = _receive_word(spare.birth)
        if word == HELLO and spare.pid < 0 and self._is_clone(template, pid):
            self._children.add(pid)
            self._by_process[pid] = template
            template.processes.add(pid)
            spare.pid = pid
            if self._raise_walls(template, spare):
                return
        elif word == WALLED and spare.pid > 0 and not spare.is_ready:
            spare.is_ready = True
            template.lost_spares = 0
            self._serve(template)
            return
        self._lose(template, spare)

    def _is_clone(self, template: Template, pid: int) -> bool:
        """Tell whether that is a new child of ours, of this template's making."""
        if pid in self._children:
            return False
        try:
            # Fails for what is not our child; the pid cannot pass to another before we reap it.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return os.getsid(pid) == template.pid
        except OSError:
            return False

    def _raise_walls(self, template: Template, spare: Spare) -> bool:
        """Give a clone its ids and its scratch folder, and let it go on; tells whether it may."""
        try:
            pidfd = os.pidfd_open(spare.pid)
        except OSError:
            return False
        try:
            pid = linux.pid_in(self._proc_fd, pidfd)
            linux.write_id_maps_of(self._proc_fd, pid, INNER_UID, INNER_GID)
            linux.setns(pidfd, linux.CLONE_NEWNS)
            try:
                mount_scratch(*template.scratch)
            finally:
                linux.setns(self._mounts_fd, linux.CLONE_NEWNS)
            return spare.birth.send(GO) == len(GO)
        except OSError:
            return False
        finally:
            os.close(pidfd)

    def _give(self, template: Template, spare: Spare, order: Order) -> None:
        report_fd, log_fd, job_fd, *cgroup_fd = order.fds
        try:
            for fd in cgroup_fd:
                os.write(fd, str(spare.pid).encode())
            _send_fds(spare.birth, [report_fd, log_fd, job_fd])
        except OSError:
            template.waiting.appendleft(order)
            self._lose(template, spare)
            return
        self._forget(template, spare)
        self._begin_run(order, spare.pid, template)
        order.close()

    # --- ends ---

    def _lose(self, template: Template, spare: Spare) -> None:
        """End a spare that is of no use; a template that gives no others is of none either."""
        self._forget(template, spare)
        self._kill(spare.pid)
        template.lost_spares += 1
        if template.lost_spares >= _MOST_LOST_SPARES:
            self.destroy(template)
        else:
            self._serve(template)

    def _forget(self, template: Template, spare: Spare) -> None:
        self._selector.unregister(spare.birth)
        spare.birth.close()
        template.spares.remove(spare)

    def _retire(self, template: Template) -> None:
        """End a template and its spares, not its runs; who waits for it runs without."""
        if template.is_over:
            return
        template.is_over = True
        self._by_key.pop(template.key, None)
        self._selector.unregister(template.channel)
        self._selector.unregister(template.lease)
        template.channel.close()
        for spare in list(template.spares):
            self._forget(template, spare)
            self._kill(spare.pid)
        self._kill(template.pid)
        while template.waiting:
            self._run_without(template.waiting.popleft())

    def destroy(self, template: Template) -> None:
        """End a template with everything it made: the end of an init ends its pid namespace."""
        self._kill(template.init_pid)
        self._retire(template)

    def reap(self, pid: int, status: int) -> None:
        """Take note that a child has exited, whoever it was."""
        self._by_init.pop(pid, None)
        template = self._by_process.pop(pid, None)
        if template is None:
            return
        template.processes.discard(pid)
        if pid == template.pid:
            self._retire(template)
            _tell(template.lease, {"status": status, "timed_out": False} | _UNTOLD)
            template.lease.close()
        if template.is_over and not template.processes:
            self._kill(template.init_pid)  # with whatever it made behind our back

    def _kill(self, pid: int) -> None:
        """Kill a child that was not reaped yet, or do nothing: the pid may be another's by then."""
        if pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def forget_all(self) -> None:
        """Let go, in a child, of what belongs to others."""
        os.close(self._mounts_fd)
        for template in self._by_init.values():
            template.lease.close()
            template.channel.close()
            for spare in template.spares:
                spare.birth.close()
            for order in template.waiting:
                order.lease.close()
        for table in (self._by_key, self._by_process, self._by_init):
            table.clear()

    # --- deadlines, and what a template made without being asked ---

    def next_deadline(self) -> float | None:
        """Return when to look again (time.monotonic()), None while there is no template."""
        if not self._by_init:
            return None
        imports = [one.deadline for one in self._by_key.values() if not one.is_ready]
        births = [
            spare.deadline
            for one in self._by_key.values()
            for spare in one.spares
            if not spare.is_ready
        ]
        return min([*imports, *births, self._next_look])

    def enforce_deadlines(self, now: float) -> None:
        """End what does not import or clone in time, and whoever made more than was asked for."""
        for template in list(self._by_key.values()):
            is_late = not template.is_ready and now >= template.deadline
            spares = template.spares
            if is_late or any(not one.is_ready and now >= one.deadline for one in spares):
                self.destroy(template)
        if self._by_init and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self.look()

    def look(self) -> None:
        """Destroy every template of which there are more processes than we know of.

        All clones are children of ours, whoever made them, and stay in their template's session.
        """
        unborn = {one: one.count_unborn() for one in self._by_init.values()}
        listed = self._list_children()
        if len(listed) <= len(self._children) + sum(unborn.values()):
            return
        found = Counter(self._session_of(pid) for pid in listed)
        for template, most in unborn.items():
            if found[template.session] > len(template.processes) + most:
                self.destroy(template)

    def _list_children(self) -> list[int]:
        fd = os.open("thread-self/children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
        with open(fd, "rb") as file:
            return [int(word) for word in file.read().split()]

    def _session_of(self, pid: int) -> int:
        try:
            fd = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
        except OSError:
            return 0
        with open(fd, "rb") as file:
            # The name in parentheses may hold anything: fields count from the last one (proc(5)).
            return int(file.read().rpartition(b")")[2].split()[3])


def _receive_word(sock: socket.socket) -> tuple[bytes, int]:
    """Receive one byte and the sender's pid as the kernel knows it; b"" when it hung up.

    There is room for credentials alone: descriptors that are sent along are closed by the kernel.
    """
    space = socket.CMSG_SPACE(_CREDENTIALS.size)
    try:
        word, ancillary, _flags, _address = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", -1
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return word, int(_CREDENTIALS.unpack_from(data)[0])
    return word, -1


def _send_fds(sock: socket.socket, fds: list[int]) -> None:
    rights = array.array("i", fds)
    sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _tell(lease: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    try:
        send_message(lease, message, fds or [])
    except OSError:
        pass  # The server has given it up.
