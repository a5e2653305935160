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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from resource import RLIMIT_CPU, RLIMIT_NOFILE, RLIMIT_NPROC, prlimit
from typing import Any

from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_child.layers.linux_namespaces import mount_scratch
from anymind_lite.sandbox.in_child.template import GO, HELLO, READY, WALLED
from anymind_lite.sandbox.protocol import INNER_GID, INNER_UID, send_message

_BIRTH_SECONDS = 5.0
_LOOK_SECONDS = 0.25
_WEIGH_SECONDS = 2.0
_MOST_LOST_SPARES = 3
_MOST_GROWTH_KB = 16 * 1024  # of a template or a spare, which both do nothing but wait

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
        self.number = 0  # as /proc numbers it
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
        self.most: dict[int, int] = {}  # of what a run may have less than the template, by rlimit
        self.spares_wanted = 1
        self.deadline = 0.0  # of the import
        self.session = 0  # as /proc numbers it, and it itself
        self.memory_kb = 0  # when it was ready
        self.is_ready = False
        self.is_over = False
        self.is_timed_out = False
        self.spares: list[Spare] = []
        self.runs: set[int] = set()
        self.clones: set[int] = set()  # not reaped yet: ready spares, runs, and what is being ended
        self.unheard = 0  # clones that may be on their way still
        self.waiting: deque[Order] = deque()
        self.lost_spares = 0


class Templates:
    """The templates of one zygote, and what becomes of the runs that are ordered from them."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        proc_fd: int,
        *,
        children: set[int],
        begin_run: Callable[[Order, int, Template], None],
    ) -> None:
        self._selector = selector
        self._proc_fd = proc_fd
        self._children = children  # every child of the zygote that it knows and has not reaped
        self._begin_run = begin_run
        self.left_over: deque[Order] = deque()  # whose template is no more: for the zygote to fork
        self._by_key: dict[int, Template] = {}
        self._by_pid: dict[int, Template] = {}
        self._by_clone: dict[int, Template] = {}  # of every clone that is not reaped
        self._by_session: dict[int, Template] = {}  # of every pid namespace that has not to end
        self._next_look = self._next_weighing = 0.0
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._mounts_fd = os.open("self/ns/mnt", flags, dir_fd=proc_fd)

    # --- from birth to end ---

    def add(self, template: Template, message: dict[str, Any]) -> None:
        """Take up a template that was just forked."""
        template.key = int(message["makes"])
        scratch_bytes, scratch_files = message["scratch"]
        template.scratch = int(scratch_bytes), int(scratch_files)
        most_tasks, most_files = message["most"]
        template.most = {RLIMIT_NPROC: int(most_tasks), RLIMIT_NOFILE: int(most_files)}
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
        self._by_pid[template.pid] = template
        self._by_session[template.session] = template
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
        if _receive_ready(template.channel) != READY or template.is_ready:
            self.destroy(template)
            return
        template.is_ready = True
        template.memory_kb, _threads = self._weight_of(template.session)
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
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # out of descriptors
            self.destroy(template)
            return
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
            self._by_clone[pid] = template
            template.clones.add(pid)
            spare.pid = pid
            if self._raise_walls(template, spare):
                return
        elif word == WALLED and spare.pid > 0 and not spare.is_ready:
            spare.is_ready = True
            self._serve(template)
            return
        self._lose(template, spare)

    def _is_clone(self, template: Template, pid: int) -> bool:
        """Tell whether that is a new child of ours, of this template's making."""
        if pid in self._children:
            return False
        try:
            _has_ended(pid)  # fails for what is not our child
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
            spare.number = linux.pid_in(self._proc_fd, pidfd)
            linux.write_id_maps_of(self._proc_fd, spare.number, INNER_UID, INNER_GID)
            # What a template has more of; a clone that means ill would keep it.
            for which, most in template.most.items():
                _limit(spare.pid, which, most, most)
            with self._among_mounts_of(pidfd):
                mount_scratch(*template.scratch)
            return spare.birth.send(GO) == len(GO)
        except OSError:
            return False
        finally:
            os.close(pidfd)

    @contextmanager
    def _among_mounts_of(self, pidfd: int) -> Iterator[None]:
        linux.setns(pidfd, linux.CLONE_NEWNS)
        try:
            yield
        finally:
            linux.setns(self._mounts_fd, linux.CLONE_NEWNS)

    def _give(self, template: Template, spare: Spare, order: Order) -> None:
        report_fd, log_fd, job_fd, *cgroup_fd = order.fds
        try:
            if _has_ended(spare.pid):
                raise ProcessLookupError(spare.pid)
            cpu_seconds = int(order.message["cpu_seconds"])  # the template's are those of an import
            _limit(spare.pid, RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
            for fd in cgroup_fd:
                os.write(fd, str(spare.pid).encode())
            _send_fds(spare.birth, [report_fd, log_fd, job_fd])
        except OSError:
            template.waiting.appendleft(order)
            self._lose(template, spare)
            return
        self._forget(template, spare)
        template.lost_spares = 0  # not before: spares may die as fast as they are ready
        template.runs.add(spare.pid)
        self._begin_run(order, spare.pid, template)
        order.close()

    # --- ends ---

    def _lose(self, template: Template, spare: Spare) -> None:
        """End a spare that is of no use; a template that gives no others is of none either."""
        self._forget(template, spare)
        if spare.pid > 0:
            _kill(spare.pid)
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
        """End a template and its spares, not its runs; who waits for it is left over."""
        if template.is_over:
            return
        template.is_over = True
        self._by_key.pop(template.key, None)
        self._selector.unregister(template.channel)
        self._selector.unregister(template.lease)
        template.channel.close()
        for spare in list(template.spares):
            self._forget(template, spare)
            if spare.pid > 0:
                _kill(spare.pid)
            else:
                template.unheard += 1
        _kill(template.pid)
        self._end_if_empty(template)
        self.left_over += template.waiting
        template.waiting.clear()

    def destroy(self, template: Template) -> None:
        """End a template with everything it made: the end of an init ends its pid namespace."""
        self._end_space(template)
        self._retire(template)

    def _end_space(self, template: Template) -> None:
        if self._by_session.pop(template.session, None) is not None:
            _kill(template.init_pid)  # once: it is not reaped before all others in it are

    def _end_if_empty(self, template: Template) -> None:
        """End the pid namespace when nothing of use is left in it."""
        if template.is_over and not template.runs and template.pid not in self._by_pid:
            self._end_space(template)

    def reap(self, pid: int, exit_told: dict[str, Any]) -> None:
        """Take note that a child was reaped, whoever it was: its pid is free from now on."""
        if pid in self._by_pid:
            self._bury(self._by_pid.pop(pid), exit_told)
        elif pid in self._by_clone:
            self._bury_clone(self._by_clone.pop(pid), pid)

    def _bury(self, template: Template, exit_told: dict[str, Any]) -> None:
        self._retire(template)
        _tell(template.lease, {**exit_told, "timed_out": template.is_timed_out})
        template.lease.close()
        self._end_if_empty(template)

    def _bury_clone(self, template: Template, pid: int) -> None:
        """Take note that a clone is over: a run, or a spare whose end nobody may have heard.

        The template has seen its birth socket, and may hold it open.
        """
        template.clones.discard(pid)
        template.runs.discard(pid)
        for spare in [one for one in template.spares if one.pid == pid]:
            spare.pid = -1  # no longer its own: nothing may be sent there
            self._lose(template, spare)
        self._end_if_empty(template)
        self._look()

    def forget_all(self) -> None:
        """Let go, in a child, of what belongs to others."""
        os.close(self._mounts_fd)
        for template in self._by_pid.values():
            template.lease.close()
            template.channel.close()
            for spare in template.spares:
                spare.birth.close()
            for order in template.waiting:
                order.lease.close()
        for order in self.left_over:
            order.lease.close()
        for known in (self._by_key, self._by_pid, self._by_clone, self._by_session):
            known.clear()
        self.left_over.clear()

    # --- deadlines, and what a template made without being asked ---

    def next_deadline(self) -> float | None:
        """Return when to look again (time.monotonic()), None while there is no template."""
        if not self._by_session:
            return None
        waiting = [one.deadline for one in self._by_pid.values() if not one.is_ready]
        births = [
            spare.deadline
            for one in self._by_pid.values()
            for spare in one.spares
            if not spare.is_ready
        ]
        return min([*waiting, *births, self._next_look])

    def enforce_deadlines(self, now: float) -> None:
        """End what does not import or clone in time, and whoever made more than was asked for."""
        for template in list(self._by_pid.values()):
            if not template.is_ready and now >= template.deadline and not template.is_over:
                template.is_timed_out = True
                self.destroy(template)
            for spare in list(template.spares):
                if not spare.is_ready and now >= spare.deadline:
                    self.destroy(template)
                    break
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._look()
        if now >= self._next_weighing:
            self._next_weighing = now + _WEIGH_SECONDS
            self._weigh()

    def _look(self) -> None:
        """Destroy every template of which there are more processes than we know of.

        All clones are children of ours, whoever made them, and stay in their template's session.
        """
        listed = self._list_children()
        unborn = sum(_count_unborn(one) for one in self._by_session.values())
        if len(listed) <= len(self._children) + unborn:
            return
        found = Counter(self._session_of(pid) for pid in listed)
        for session, template in list(self._by_session.items()):
            known = (template.pid in self._by_pid) + len(template.clones)
            if found[session] > known + _count_unborn(template):
                self.destroy(template)

    def _weigh(self) -> None:
        """Destroy every template that goes on working or growing, itself or in a spare.

        The memory that all templates may have is shared out by what each took when it was ready.
        """
        for template in list(self._by_pid.values()):
            waiting = [template.session]
            waiting += [spare.number for spare in template.spares if spare.is_ready]
            if template.is_ready:
                is_over = any(self._is_busy(template, one) for one in waiting)
            else:
                is_over = self._has_too_many_threads(template)
            if is_over:
                self.destroy(template)

    def _has_too_many_threads(self, template: Template) -> bool:
        """Tell it of an import: as many as a run may have, as all templates share one limit."""
        return self._weight_of(template.session)[1] > template.most[RLIMIT_NPROC]

    def _is_busy(self, template: Template, number: int) -> bool:
        memory_kb, threads = self._weight_of(number)
        return threads > 1 or memory_kb > template.memory_kb + _MOST_GROWTH_KB

    def _weight_of(self, number: int) -> tuple[int, int]:
        """Return the memory in KB and the threads of a process; zeros where it is gone."""
        try:
            fd = os.open(f"{number}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
            with open(fd, "rb") as file:
                # The name that the process gave itself stands in the first line, escaped.
                fields = dict(line.split(b":", 1) for line in file if b":" in line)
        except OSError:
            return 0, 0
        own = (b"RssAnon", b"RssShmem", b"VmSwap")
        memory_kb = sum(int(fields[name].split()[0]) for name in own if name in fields)
        return memory_kb, int(fields.get(b"Threads", b"0"))

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


def can_list_children(proc_fd: int) -> bool:
    """Tell whether the kernel names one's children (CONFIG_PROC_CHILDREN)."""
    try:
        os.close(os.open("thread-self/children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd))
    except OSError:
        return False
    return True


def _count_unborn(template: Template) -> int:
    return template.unheard + sum(spare.pid < 0 for spare in template.spares)


def _receive_ready(channel: socket.socket) -> bytes:
    """Receive one byte; without any room the kernel closes whatever descriptors come along."""
    try:
        return channel.recv(1)
    except OSError:
        return b""


def _receive_word(sock: socket.socket) -> tuple[bytes, int]:
    """Receive one byte and the sender's pid as the kernel knows it; b"" when it hung up.

    There is room for credentials alone, which come first on a socket that passes them: descriptors
    that are sent along are closed by the kernel.
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


def _has_ended(pid: int) -> bool:
    """Tell whether a child has ended; its pid cannot pass to another before we reap it.

    Raises OSError for what is no child of ours.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _limit(pid: int, which: int, soft: int, hard: int) -> None:
    """Lower a limit of a child, which may mean ill; what is lower stays. Raises OSError."""
    _soft, highest = prlimit(pid, which)
    if 0 <= highest < hard:
        soft, hard = min(soft, highest), highest
    prlimit(pid, which, (soft, hard))


def _send_fds(sock: socket.socket, fds: list[int]) -> None:
    rights = array.array("i", fds)
    sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _tell(lease: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    try:
        send_message(lease, message, fds or [])
    except OSError:
        pass  # The server has given it up.


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # Gone and reaped.
