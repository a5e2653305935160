"""The zygote: waits for jobs, forks a child for each, ends what must end, reports each exit.

Runs as process 1 of a pid namespace, forked by the stub; where there are no namespaces the stub
itself becomes the zygote. It holds no secret, has one thread, and reads from the server alone: what
a child writes goes past it. Everything it waits for comes through one selector.
"""

import gc
import os
import selectors
import signal
import socket
import time
from typing import Any

from anymind_lite.sandbox.in_child import cloning
from anymind_lite.sandbox.in_child.layers import Walls, linux_seccomp, posix
from anymind_lite.sandbox.in_child.layers import linux_calls as linux
from anymind_lite.sandbox.in_child.layers.linux_namespaces import be_init
from anymind_lite.sandbox.in_child.main import Birth
from anymind_lite.sandbox.in_zygote.templates import Order, Template, Templates, can_list_children
from anymind_lite.sandbox.protocol import receive_message, send_message

_SWEEP_SECONDS = 5.0
_SWEEP_PAUSE_SECONDS = 0.001


class Run:
    """One child that was forked and has not been reported yet.

    `init_pid` is process 1 of its pid namespace, -1 if it has none; `exit` what is told at the end.
    `deadline` is the wall limit; `kill_at` is sooner once the server has asked the run to end. Of a
    `template` it is a clone, and then leads no process group.
    """

    def __init__(
        self,
        pid: int,
        init_pid: int,
        lease: socket.socket,
        deadline: float,
        template: Template | None = None,
    ) -> None:
        self.pid = pid
        self.init_pid = init_pid
        self.template = template
        self.lease = lease
        self.deadline = deadline
        self.kill_at = deadline
        self.exit: dict[str, Any] = {}
        self.is_killed = False
        self.is_timed_out = False


class Zygote:
    """The one loop that owns all children. In namespaces `proc_fd` is the host's /proc."""

    def __init__(
        self, control: socket.socket, walls: Walls, proc_fd: int = -1, thread_id_place: int = 0
    ) -> None:
        self._control = control
        self._walls = walls
        self._proc_fd = proc_fd
        self._thread_id_place = thread_id_place
        if walls.has_namespaces:
            self._own_pids_fd = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        self._runs: dict[int, Run] = {}
        self._ending: dict[int, Run] = {}  # by the init that is still to be reaped
        self._children: set[int] = set()  # forked or cloned, and not reaped
        self._birth: Birth | None = None
        self._is_over = False
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._take_job)
        self._selector.register(self._listen_for_exits(), selectors.EVENT_READ, self._drain_exits)
        self._templates: Templates | None = None
        if can_clone(walls) and can_list_children(proc_fd):
            self._templates = Templates(
                self._selector,
                proc_fd,
                children=self._children,
                begin_run=self._begin_warm,
            )

    def _listen_for_exits(self) -> int:
        """Return a descriptor that becomes readable when a child exits."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        os.set_blocking(writable, False)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._exits = readable
        return readable

    def serve(self) -> Birth | None:
        """Serve until the server hangs up; in every child return what it was born with."""
        while not self._is_over:
            self._heed_all()
            self._enforce_deadlines()
            self._reap()
            self._run_left_over()
        return self._birth

    def _heed_all(self) -> None:
        for key, _events in self._selector.select(self._seconds_to_next_deadline()):
            if not self._is_over:
                key.data()

    def stop(self) -> None:
        """Kill every child and whatever they left; in a child do nothing."""
        if os.getpid() != self._pid:
            return
        for run in self._runs.values():
            self._kill(run)
        self._runs.clear()
        self._sweep()

    def _seconds_to_next_deadline(self) -> float | None:
        waiting = [run.kill_at for run in self._runs.values() if not run.is_killed]
        look_at = self._templates.next_deadline() if self._templates else None
        if look_at is not None:
            waiting.append(look_at)
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _take_job(self) -> None:
        """Begin the next job; or end, when the server hung up."""
        try:
            message, fds = receive_message(self._control)
        except (EOFError, OSError):
            self._is_over = True
            return
        lease_fd, *child_fds = fds
        order = Order(socket.socket(fileno=lease_fd), child_fds, message)
        if "makes" in message:
            self._make_template(order)
        elif self._templates is None or not self._templates.order(order):
            self._run_without(order)

    def _run_left_over(self) -> None:
        """Fork what lost its template, here alone: a child must find nothing more to do."""
        while self._templates and self._templates.left_over and not self._is_over:
            self._run_without(self._templates.left_over.popleft())

    def _run_without(self, order: Order) -> None:
        """Fork a child for a job that no template serves; returns in the child, too."""
        try:
            self._start(order)
        finally:
            if self._birth is None:
                order.close()

    def _start(self, order: Order) -> None:
        has_init = bool(order.message["has_init"])
        try:
            if has_init:
                pid, init_pid = self._fork_with_init(order.fds, has_init=True)
            else:
                pid, init_pid = self._fork(order.fds), -1
        except OSError as exc:
            _tell(order.lease, {"error": f"fork: {exc.strerror}"})
            order.lease.close()
            return
        if self._birth is not None:
            order.lease.close()
            return
        self._begin(Run(pid, init_pid, order.lease, _deadline_of(order)))

    def _begin_warm(self, order: Order, pid: int, template: Template) -> None:
        """Take up a clone of a template that has just been given a job."""
        self._begin(Run(pid, -1, order.lease, _deadline_of(order), template))

    def _begin(self, run: Run) -> None:
        self._runs[run.pid] = run
        self._selector.register(run.lease, selectors.EVENT_READ, lambda: self._heed(run))
        pidfds = _open_pidfd(run.init_pid if run.init_pid > 0 else run.pid)
        _tell(run.lease, {"pid": run.pid, "warm": run.template is not None}, pidfds)
        for fd in pidfds:
            os.close(fd)

    def _make_template(self, order: Order) -> None:
        """Fork a template, the only agent code in a pid namespace of its own."""
        if self._templates is None:
            _tell(order.lease, {"error": "no templates here"})
            order.lease.close()
            order.close()
            return
        ours, theirs = socket.socketpair()
        try:
            pid, init_pid = self._fork_with_init(order.fds, channel=theirs)
        except OSError as exc:
            ours.close()
            _tell(order.lease, {"error": f"fork: {exc.strerror}"})
            order.lease.close()
            pid = -1
        finally:
            if self._birth is None:
                theirs.close()
                order.close()
        if self._birth is not None:
            ours.close()
            order.lease.close()
        elif pid > 0:
            self._templates.add(Template(pid, init_pid, order.lease, ours), order.message)

    def _fork(
        self, child_fds: list[int], *, has_init: bool = False, channel: socket.socket | None = None
    ) -> int:
        pid = os.fork()
        if pid == 0:
            report_fd, log_fd, job_fd, *cgroup_fd = child_fds
            self._birth = Birth(
                report_fd,
                log_fd,
                job_fd,
                zygote_pid=self._pid,
                walls=self._walls,
                proc_fd=self._proc_fd,
                cgroup_fd=cgroup_fd[0] if cgroup_fd else -1,
                has_init=has_init,
                channel_fd=-1 if channel is None else channel.detach(),
                thread_id_place=self._thread_id_place,
            )
            self._is_over = True  # the loop is its parent's
            self._forget_runs()
        else:
            self._children.add(pid)
        return pid

    def _forget_runs(self) -> None:
        """Let go, in a child, of what belongs to the other runs; agent code can find any object.

        Closing is all: the zygote's epoll is shared, and to unregister here would unregister there.
        """
        for run in (*self._runs.values(), *self._ending.values()):
            run.lease.close()
        self._runs.clear()
        self._ending.clear()
        self._children.clear()
        if self._templates is not None:
            self._templates.forget_all()
        self._selector.close()
        self._control.close()

    def _fork_with_init(
        self, child_fds: list[int], *, has_init: bool = False, channel: socket.socket | None = None
    ) -> tuple[int, int]:
        """Fork process 1 of a new pid namespace and the child beside it; return child, init.

        Both are our own children: the child's exit is seen as it is, and it waits for nobody.
        """
        linux.unshare(linux.CLONE_NEWPID)
        try:
            init_pid = os.fork()
            if init_pid == 0:
                be_init()
            self._children.add(init_pid)
            try:
                return self._fork(child_fds, has_init=has_init, channel=channel), init_pid
            except OSError:
                os.kill(init_pid, signal.SIGKILL)
                raise
        finally:
            # The kernel refuses the next unshare while children go elsewhere already
            # (copy_pid_ns), so go on as if there had been none.
            if self._birth is None:
                linux.setns(self._own_pids_fd, linux.CLONE_NEWPID)

    def _heed(self, run: Run) -> None:
        """Do what the server says on a lease: end it with a grace, or, by hanging up, kill it."""
        try:
            message, _fds = receive_message(run.lease)
        except (EOFError, OSError):
            self._kill(run)
            return
        run.kill_at = min(run.kill_at, time.monotonic() + float(message["grace_seconds"]))
        try:
            # The group is the agent's own, as every layer stands, and stays: a session's leader
            # cannot leave it (setpgid(2)). It has the agent's pid, which nobody else can get before
            # we reap it. A clone is in its template's group, but is all there is of its run.
            kill = os.killpg if run.template is None else os.kill
            kill(run.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            pass  # Gone and not yet reaped.

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for run in list(self._runs.values()):
            if now >= run.kill_at and not run.is_killed:
                run.is_timed_out = now >= run.deadline
                self._kill(run)
        if self._templates is not None:
            self._templates.enforce_deadlines(now)

    def _kill(self, run: Run) -> None:
        """Kill the child and its group; descendants that left the group fall to the sweep.

        The end of an init is the end of all in its pid namespace (pid_namespaces(7)).
        """
        if not run.is_killed:
            run.is_killed = True
            # The lease stays readable after a hang-up: stop looking at it.
            self._selector.unregister(run.lease)
        if run.init_pid > 0:
            os.kill(run.init_pid, signal.SIGKILL)
            return
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
        """Collect every exited child; end and report each run once."""
        while not self._is_over:
            try:
                pid, status, usage = os.wait3(os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            exit_told = _exit_of(status, usage)
            if self._templates is not None:
                self._templates.reap(pid, exit_told)
            if pid in self._runs:
                self._end(self._runs.pop(pid), exit_told)
            elif pid in self._ending:
                self._tell_exit(self._ending.pop(pid))

    def _end(self, run: Run, exit_told: dict[str, Any]) -> None:
        """Kill what the run left behind, then report; the order is what "nothing left" rests on."""
        if not run.is_killed:
            self._selector.unregister(run.lease)
        run.exit = {**exit_told, "timed_out": run.is_timed_out}
        if run.init_pid > 0:
            # It is reaped when nobody is left in its pid namespace, and not before.
            os.kill(run.init_pid, signal.SIGKILL)
            self._ending[run.init_pid] = run
            return
        self._sweep()
        self._tell_exit(run)

    def _tell_exit(self, run: Run) -> None:
        _tell(run.lease, run.exit)
        run.lease.close()

    def _sweep(self) -> None:
        """Kill every child of ours that is no run.

        The zygote is the subreaper (prctl(2)): a descendant whose parent died becomes our child,
        whatever session or group it made for itself. Killing one hands us its children in turn,
        hence the loop. With either wall there is nothing to do: what ends with its init leaves
        nobody, and whose calls are filtered starts nobody. (test_leaves_no_process_behind)
        """
        if self._walls.has_namespaces or self._walls.filters_calls:
            return
        deadline = time.monotonic() + _SWEEP_SECONDS
        while strangers := _children(self._pid) - self._runs.keys():
            for pid in strangers:
                _kill_and_collect(pid)
            if time.monotonic() > deadline:
                # A broken sandbox is destroyed, never repaired: the server starts a new zygote.
                raise RuntimeError(f"{len(strangers)} processes cannot be killed")
            time.sleep(_SWEEP_PAUSE_SECONDS)


def can_clone(walls: Walls) -> bool:
    """Tell whether templates can be kept in bounds here: it takes both walls of tier A."""
    return walls.has_namespaces and walls.filters_calls and cloning.is_possible()


def _deadline_of(order: Order) -> float:
    return time.monotonic() + float(order.message["wall_seconds"])


def _exit_of(status: int, usage: Any) -> dict[str, Any]:
    cpu_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
    return {"status": status, "cpu_ms": cpu_ms, "max_rss_kb": usage.ru_maxrss}


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


def serve(
    control: socket.socket, walls: Walls, *, proc_fd: int = -1, thread_id_place: int = 0
) -> Birth | None:
    """Prepare once what every child inherits, then serve until the server hangs up.

    Returns in every child too, with what it was born with: the caller hands that to `child_main`,
    when nothing of the zygote is on the stack any more.
    """
    if posix.IS_LINUX:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    if walls.filters_calls:
        for kind in linux_seccomp.Kind:
            linux_seccomp.filter_for(walls, kind)
    zygote = Zygote(control, walls, proc_fd, thread_id_place)
    # What exists now is never collected, so that children do not copy its pages (gc.freeze).
    if not walls.has_namespaces:  # else the stub has, before it forked us
        gc.collect()
    gc.freeze()
    gc.disable()
    try:
        return zygote.serve()
    finally:
        zygote.stop()
