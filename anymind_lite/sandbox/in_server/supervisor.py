"""The supervisor: the server's owner of the zygote and of every running job.

Runs in the server, which holds secrets. Each job is driven by the thread that asked for it; a
thread of the supervisor's own only replaces a zygote that died.
"""

import errno
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from anymind_lite.files import remove_tree
from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.sandbox.in_server.outcome import Outcome, read_outcome
from anymind_lite.sandbox.protocol import (
    AGENT_DIR,
    SCRATCH_DIR,
    Ground,
    Job,
    Places,
    encode_job,
    receive_message,
)

logger = logging.getLogger(__name__)

_STUB_PATH = Path(__file__).parent.parent / "in_zygote" / "stub.py"
_STOP_SECONDS = 5.0
_RESPAWN_PAUSE_SECONDS = 0.2
_START_SECONDS = 30.0


class Supervisor:
    """Runs jobs in children of one zygote, and replaces the zygote when it dies.

    `scratch_parent` is a folder for the jobs' scratch folders, emptied at start. `code_parent` is
    the folder above the code of every job: it must stay the same folder while the zygote lives,
    which holds on to it.
    """

    def __init__(self, scratch_parent: Path, code_parent: Path) -> None:
        self._scratch_parent = scratch_parent
        self._code_parent = code_parent
        self._ground = Ground(zygote_pid=0, error="it was not started")
        self._lock = threading.Lock()
        self._conversations: dict[str, Conversation] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Start the zygote; call it before the process has other threads."""
        remove_tree(self._scratch_parent)
        self._scratch_parent.mkdir(parents=True, mode=0o700)
        self._code_parent.mkdir(parents=True, exist_ok=True)
        # A root server's sandbox is another user, who passes through to the one version's code.
        self._code_parent.chmod(0o711)
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
        return self._ground.zygote_pid or None

    @property
    def ground(self) -> Ground:
        """What the zygote stands on, as it told at its start."""
        return self._ground

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
        with self._scratch_dir() as scratch_dir, Conversation(job.limits) as conversation:
            with self._registered(key, conversation):
                failure = ""
                if is_wanted():
                    failure = self._hand_over(conversation, job, scratch_dir, payload)
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
    def _scratch_dir(self) -> Iterator[Path | None]:
        """Make a folder on the host where a run cannot have one of its own."""
        if self._ground.has_namespaces:
            yield None
            return
        path = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._scratch_parent))
        try:
            yield path
        finally:
            try:
                remove_tree(path)
            except OSError:
                logger.exception("event=scratch_not_removed path=%s", path)

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
        self, conversation: Conversation, job: Job, scratch_dir: Path | None, payload: bytes
    ) -> str:
        """Send the job to the zygote; return what went wrong, or nothing."""
        with self._lock:
            if self._is_stopping or self._control is None:
                return "The server is stopping."
            if self._ground.error:
                return f"Sandbox set-up failed ({self._ground.error})."
            try:
                text = self._encode(job, scratch_dir, payload)
                conversation.hand_over(self._control, job, text)
            except OSError as exc:
                return f"The sandbox could not take the job ({exc.strerror})."
        return ""

    def _encode(self, job: Job, scratch_dir: Path | None, payload: bytes) -> bytes:
        """Write the job with the folders as its child will see them."""
        if not self._ground.has_namespaces:
            if scratch_dir is None:  # the zygote was replaced by one without namespaces just now
                raise OSError(errno.EAGAIN, "the sandbox has just changed")
            return encode_job(job, Places(str(scratch_dir)), payload)
        name = ""
        if job.code_dir:
            name = str(Path(job.code_dir).relative_to(self._code_parent))
        return encode_job(replace(job, code_dir=AGENT_DIR), Places(SCRATCH_DIR, name), payload)

    def _spawn(self) -> None:
        with self._lock:
            if self._is_stopping:
                return
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_STUB_PATH), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"},
                    cwd=self._code_parent,  # how it learns of it: a path would have to be readable
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the server's terminal is not for the zygote
                )
            self._ground = _hear_ground(self._control)
        logger.log(
            logging.ERROR if self._ground.error else logging.INFO,
            "event=zygote_started pid=%d namespaces=%s note=%r error=%r",
            self._ground.zygote_pid,
            self._ground.has_namespaces,
            self._ground.note,
            self._ground.error,
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


def _hear_ground(control: socket.socket) -> Ground:
    """Receive what the stub found, its first words; they never come if it dies at once."""
    control.settimeout(_START_SECONDS)
    try:
        message, _fds = receive_message(control)
    except (EOFError, OSError) as exc:
        return Ground(zygote_pid=0, error=f"the zygote did not start: {exc}")
    finally:
        control.settimeout(None)
    return Ground(**message)
