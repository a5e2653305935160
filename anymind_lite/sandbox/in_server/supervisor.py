"""The supervisor: the server's owner of the zygote and of every running job.

Runs in the server, which holds secrets. Each job is driven by the thread that asked for it; a
thread of the supervisor's own only replaces a zygote that died.
"""

import errno
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from anymind_lite.sandbox.in_server.cgroup import Cgroups, NotDelegated, RunCgroup
from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.sandbox.in_server.outcome import Outcome, read_outcome
from anymind_lite.sandbox.in_server.scratch import HostScratch, remove_scratch
from anymind_lite.sandbox.in_server.templates import TemplatePool, Wish
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import (
    AGENT_DIR,
    SCRATCH_DIR,
    Ground,
    Job,
    Places,
    decode_ground,
    encode_job,
    let_agents_pass,
    receive_message,
)

logger = logging.getLogger(__name__)

_STUB_PATH = Path(__file__).parent.parent / "in_zygote" / "stub.py"
_STOP_SECONDS = 5.0
_RESPAWN_PAUSE_SECONDS = 0.2
_START_SECONDS = 30.0
_HAND_OVER_SECONDS = 5.0
_SEND_SECONDS = 5.0


class Supervisor:
    """Runs jobs in children of one zygote, and replaces the zygote when it dies.

    On a machine that does not reach `min_tier` no job is run. `scratch_parent` is a folder for the
    jobs' scratch folders, emptied at start. `code_parent` is the folder above the code of every
    job: it must stay the same folder while the zygote lives, which holds on to it.
    """

    def __init__(
        self,
        scratch_parent: Path,
        code_parent: Path,
        *,
        min_tier: Tier = Tier.B,
        warm_memory_bytes: int = 0,
    ) -> None:
        self._scratch_parent = scratch_parent
        self._code_parent = code_parent
        self.min_tier = min_tier
        self._tier_at_start: Tier | None = None
        self._cgroups: Cgroups | None = None
        self._why_no_cgroups = ""
        self._ground = Ground(zygote_pid=0, error="it was not started")
        self._lock = threading.Lock()  # never held while waiting for another process
        self._changed = threading.Condition(self._lock)
        self._sending = threading.Lock()  # taken before the other one, never inside it
        self._conversations: dict[str, Conversation] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._control: socket.socket | None = None  # the same one, while its zygote serves
        self._stopping = threading.Event()
        self.templates = TemplatePool(self._make_template, memory_bytes=warm_memory_bytes)

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start the zygote; call it before the process has other threads.

        `meanwhile` is called while the zygote finds out what it stands on, and may start none.
        """
        remove_scratch(self._scratch_parent)
        self._scratch_parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._code_parent.mkdir(parents=True, exist_ok=True)
        for folder in (self._scratch_parent, self._code_parent):
            let_agents_pass(folder)
        self._stopping.clear()
        self._take_cgroups()
        self._tier_at_start = None
        self._spawn(meanwhile)
        self._tier_at_start = self._ground.tier
        self._watcher = threading.Thread(
            target=self._replace_dead_zygotes, name="zygote-watch", daemon=True
        )
        self._watcher.start()
        if self._ground.has_templates:
            self.templates.start()

    def _take_cgroups(self) -> None:
        try:
            self._cgroups = Cgroups.take()
            self._cgroups.remove_old_runs()
            self._why_no_cgroups = ""
        except NotDelegated as exc:
            self._cgroups, self._why_no_cgroups = None, str(exc)

    def stop(self) -> None:
        """Kill every job and the zygote, and wait until they are gone."""
        with self._lock:
            self._stopping.set()
            self._changed.notify_all()
            process, control = self._process, self._socket
        if control is not None:
            _shut_down(control)  # the watcher closes it
        self.templates.stop()
        if process is not None:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            self._watcher.join()
        remove_scratch(self._scratch_parent)

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, for diagnosis."""
        return self._ground.zygote_pid or None

    @property
    def ground(self) -> Ground:
        """What the zygote stands on, as it told at its start."""
        return self._ground

    @property
    def is_serving(self) -> bool:
        """Whether there is a zygote now; when one died, another follows soon."""
        return self._control is not None

    @property
    def refusal(self) -> str:
        """Why no job is run, for as long as the machine stays as it is; "" when jobs are run."""
        ground = self._ground
        if ground.error:
            return f"Sandbox set-up failed ({ground.error})."
        if ground.tier.reaches(self.min_tier):
            return ""
        return (
            f"Agents are refused: this machine reaches tier {ground.tier} of the sandbox, and "
            f"MIN_TIER is {self.min_tier}. `python3 run.py doctor` tells what is missing; "
            f"MIN_TIER={ground.tier} runs agents that you trust."
        )

    def run(
        self,
        job: Job,
        payload: bytes = b"null",
        *,
        key: str,
        is_wanted: Callable[[], bool] = lambda: True,
        template: str = "",
    ) -> Outcome:
        """Run one job to its end in the calling thread.

        `payload` is JSON text; `key` names the job for `cancel` and is unique among running ones.
        `is_wanted` is asked when `cancel` can already reach the job: who decides elsewhere that the
        job is off and then calls `cancel` is obeyed whichever comes first. `template` names what
        may have imported its code already, in `templates`. A job that was handed to a zygote which
        died before anybody had read it is handed over once more, and asked for once more.
        Returns within the wall limit and a few seconds, whatever the agent does.
        """
        started_at = time.monotonic()
        for is_last_try in (False, True):
            with ExitStack() as folders, Conversation(job.limits) as conversation:
                with self._registered(key, conversation):
                    failure = ""
                    if is_wanted():
                        number = self.templates.number_of(template) if template else None
                        failure = self._hand_over(
                            conversation, job, payload, folders=folders, template=number
                        )
                    else:
                        conversation.cancel()
                    if not failure:
                        conversation.drive(self._kill_zygote)
                if not is_last_try and conversation.withdraw():
                    logger.warning("event=job_withdrawn key=%s", key)
                    continue
                seen = conversation.observed(failure, started_at)
                break
        return self._judged(read_outcome(seen, job.limits, job.mode), conversation, job)

    def _judged(self, outcome: Outcome, conversation: Conversation, job: Job) -> Outcome:
        ground = conversation.ground
        if ground is None:
            return outcome
        return replace(
            outcome,
            tier=ground.tier,
            layers=ground.layer_names(job),
            is_warm=conversation.is_warm,
        )

    def _make_template(
        self, wish: Wish, number: int, resources: ExitStack
    ) -> tuple[Outcome, Conversation]:
        """Have a template made; it lives, if it returned, until `resources` are closed."""
        started_at, job = time.monotonic(), wish.job
        conversation = resources.enter_context(Conversation(job.limits))
        with self._registered(wish.key, conversation):
            failure = ""
            if wish.is_wanted():
                failure = self._hand_over(
                    conversation, job, b"null", folders=resources, template=number
                )
            else:
                conversation.cancel()
            if not failure:
                conversation.drive(self._kill_zygote)
        seen = conversation.observed(failure, started_at)
        outcome = read_outcome(seen, job.limits, job.mode)
        return self._judged(outcome, conversation, job), conversation

    def cancel(self, key: str, *, grace_seconds: float = 0.0) -> bool:
        """End a running job with all its processes; return whether there was one.

        With a grace the agent gets SIGTERM, and the kill so much later; a second grace changes
        nothing. Without one it is killed at once, also in a grace, and so is a job whose agent code
        has not begun. Returns without a grace when the job is over, or after a few seconds if even
        the kill does not end it; with one at once, as an agent may use it up.
        """
        with self._lock:
            conversation = self._conversations.get(key)
            if conversation is None:
                return False
            conversation.cancel(grace_seconds)
        if grace_seconds <= 0:
            conversation.ended.wait(_STOP_SECONDS)
        return True

    @contextmanager
    def _registered(self, key: str, conversation: Conversation) -> Iterator[None]:
        with self._lock:
            self._conversations[key] = conversation
        try:
            yield
        finally:
            with self._lock:
                del self._conversations[key]
            conversation.ended.set()

    def _hand_over(
        self,
        conversation: Conversation,
        job: Job,
        payload: bytes,
        *,
        folders: ExitStack,
        template: int | None = None,
    ) -> str:
        """Send the job to the zygote; return what went wrong, or nothing.

        A zygote that died before it could take the job is waited for, as another follows it.
        `folders` removes in the end what was made on the host.
        """
        deadline = time.monotonic() + _HAND_OVER_SECONDS
        while True:
            control, ground = self._wait_for_zygote(deadline)
            if self._stopping.is_set():
                return "The server is stopping."
            if refusal := self.refusal or _refusal_of_processes(job, ground):
                return refusal
            if control is None:
                return "The sandbox is being started again."
            try:
                conversation.scratch = self._make_scratch(ground, folders)
                conversation.cgroup = self._make_cgroup(job, folders)
                text = self._encode(job, conversation.scratch, payload)
                hand_over = partial(conversation.hand_over, control, job, ground, text, template)
                if self._send(control, hand_over):
                    return ""
            except OSError as exc:
                logger.exception("event=hand_over_failed")
                return f"The sandbox could not take the job ({exc.strerror or exc})."

    def _wait_for_zygote(self, deadline: float) -> tuple[socket.socket | None, Ground]:
        with self._lock:
            while self._control is None and not self._stopping.is_set():
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    break
                self._changed.wait(seconds)
            return self._control, self._ground

    def _send(self, control: socket.socket, hand_over: Callable[[], None]) -> bool:
        """Send on the control socket; return False when its zygote is gone. Raises OSError.

        Under a lock of its own: `cancel` and `stop` must not wait for a zygote that does not read.
        """
        with self._sending:
            if self._control is not control:
                return False
            try:
                hand_over()
            except (BrokenPipeError, ConnectionResetError):
                self._disown(control)
                return False
            except TimeoutError:
                # Half a frame may have been sent: nothing more can be said on this socket.
                self._disown(control)
                self._kill_zygote()
                raise
        return True

    def _disown(self, control: socket.socket) -> None:
        with self._lock:
            if self._control is control:
                self._control = None

    def _encode(self, job: Job, scratch: HostScratch | None, payload: bytes) -> bytes:
        """Write the job with the folders as its child will see them."""
        if scratch is not None:
            return encode_job(job, Places(str(scratch.path)), payload)
        name = ""
        if job.code_dir:
            name = str(Path(job.code_dir).relative_to(self._code_parent))
        return encode_job(replace(job, code_dir=AGENT_DIR), Places(SCRATCH_DIR, name), payload)

    def _make_scratch(self, ground: Ground, folders: ExitStack) -> HostScratch | None:
        """Make a folder on the host for a run that cannot have one of its own."""
        if ground.has_namespaces:
            return None
        scratch = HostScratch(self._scratch_parent, ground.agent_uid)
        folders.callback(scratch.remove)
        return scratch

    def _make_cgroup(self, job: Job, folders: ExitStack) -> RunCgroup | None:
        if self._cgroups is None:
            return None
        group = self._cgroups.new_run(job.limits)
        folders.callback(_remove_cgroup, group)
        return group

    def _spawn(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start a zygote and hear what it stands on. Raises OSError, and what `meanwhile` does."""
        control, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._start_stub(theirs)
            except BaseException:
                control.close()
                raise
        with self._lock:
            self._process, self._socket = process, control
            if self._stopping.is_set():
                process.kill()  # `stop` came before it could see this one
        try:
            meanwhile()
        except BaseException:
            self._give_up(process, control)
            raise
        ground = _hear_ground(control)
        if fault := self._fault_of_next(ground):
            self._give_up(process, control)
            raise OSError(errno.EAGAIN, fault)
        with self._lock:
            self._control, self._ground = control, ground
            self._changed.notify_all()
        logger.log(
            logging.ERROR if ground.error else logging.INFO,
            "event=zygote_started pid=%d tier=%s refusals=%r error=%r",
            ground.zygote_pid,
            ground.tier,
            dict(ground.refusals),
            ground.error,
        )

    def _fault_of_next(self, ground: Ground) -> str:
        """Tell why a zygote may not follow one that served; what took its walls away may pass."""
        if self._tier_at_start is None:
            return ""  # it is the first: the operator sees what it stands on
        if not ground.error and ground.tier.reaches(self._tier_at_start):
            return ""
        reasons = "; ".join(filter(None, [ground.error, *ground.refusals.values()]))
        return f"tier {ground.tier} after {self._tier_at_start}: {reasons}"

    def _give_up(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        with self._lock:
            self._socket = None
        control.close()
        process.kill()
        process.wait()

    def _start_stub(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(_STUB_PATH),
                str(theirs.fileno()),
                self._why_no_cgroups,
            ],
            pass_fds=[theirs.fileno()],
            env={"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"},
            cwd=self._code_parent,  # how it learns of it: a path would have to be readable
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            umask=0o022,  # what it builds is for agents to see, who may be another user
            start_new_session=True,  # Ctrl-C in the server's terminal is not for the zygote
        )

    def _replace_dead_zygotes(self) -> None:
        while self._process is not None:
            status = self._process.wait()
            self._retire()
            if self._stopping.is_set():
                return
            logger.error("event=zygote_died status=%s", status)
            while not self._stopping.wait(_RESPAWN_PAUSE_SECONDS):
                try:
                    self._spawn()
                    break
                except (OSError, subprocess.SubprocessError) as exc:
                    # Out of processes, descriptors or memory: that passes.
                    logger.error("event=zygote_not_started error=%r", str(exc))

    def _retire(self) -> None:
        """Close the control socket of a zygote that is gone."""
        with self._lock:
            control, self._socket, self._control = self._socket, None, None
        if control is not None:
            _shut_down(control)  # wakes whoever is sending on it
            with self._sending:
                control.close()

    def _kill_zygote(self) -> None:
        logger.error("event=zygote_unresponsive")
        with self._lock:
            if self._process is not None:
                self._process.kill()


def _shut_down(control: socket.socket) -> None:
    try:
        control.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # The other end is gone.


def _refusal_of_processes(job: Job, ground: Ground) -> str:
    if job.allows_processes and not ground.has_namespaces:
        return "An agent with subprocess: true needs namespaces, which this machine does not offer."
    return ""


def _remove_cgroup(group: RunCgroup) -> None:
    try:
        group.remove()
    except OSError:
        logger.exception("event=cgroup_not_removed")


def _hear_ground(control: socket.socket) -> Ground:
    """Receive what the stub found, its first words; they never come if it dies at once.

    Leaves the socket with the time limit for sending.
    """
    control.settimeout(_START_SECONDS)
    try:
        message, _fds = receive_message(control)
    except (EOFError, OSError) as exc:
        return Ground(zygote_pid=0, error=f"the zygote did not start: {exc}")
    finally:
        control.settimeout(_SEND_SECONDS)
    return decode_ground(message)
