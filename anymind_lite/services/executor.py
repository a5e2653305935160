"""The executor: runs versions in the sandbox, and can end each run wherever it is.

It knows which executions this process holds: those that wait or run, and those that have ended and
whose end the database did not take yet. A row that is unfinished and not held here belongs to
nobody: `recovery` closes it.
"""

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from anymind_lite.database import PreparedSelect
from anymind_lite.errors import Overloaded
from anymind_lite.models import AgentVersion, Execution, ExecutionStatus, User
from anymind_lite.reader.in_server import Reader
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from anymind_lite.services.code import ensure_code, remove_if_gone, template_name
from anymind_lite.services.limits import Caps, asked_limits, execution_limits, template_limits
from anymind_lite.services.slots import Reservation, SlotPool
from anymind_lite.storage import ArtifactStore, DiskReserve

logger = logging.getLogger(__name__)

INTERRUPTED = "Interrupted by a server restart."
_INTERRUPT_SECONDS = 5.0

# Long polls hold a thread of the HTTP server each; further ones are answered at once.
LONG_POLLS = 32
MAX_WAIT_SECONDS = 60
_CANCEL_GRACE_SECONDS = 2.0

# An execution begins only when its row was written, so a database that takes nothing lets no more
# end than have begun. But where it takes the small row of a beginning and not the large one of an
# end, as under an exhausted quota, ends would gather without a bound.
KEPT_ENDS_BYTES = 32 << 20
_ENDS_RETRY_SECONDS = 5

# After these it is not known whether the version can be imported.
_TELLING_OF_NO_IMPORT = {
    StopReason.SANDBOX_FAILURE,
    StopReason.CANCELLED,
    StopReason.IMPORT_FAILED,
}

_STATUS_BY_ID = PreparedSelect(Execution.select(Execution.status).where(Execution.id == 0))


@dataclass(frozen=True)
class End:
    """How an execution ended, as the columns that tell it; `traces` are those of any run.

    Texts, and not what was parsed of them, which takes many times their memory: it may be kept.
    """

    verdict: dict[str, Any]
    traces: dict[str, Any]

    @property
    def size(self) -> int:
        """How many bytes of memory it takes, or few more."""
        columns = {**self.verdict, **self.traces}
        return sum(map(sys.getsizeof, (self.verdict, self.traces, *columns.values())))


class Place:
    """One execution's place on this server, from before its row is written to after its end."""

    def __init__(self, reservation: Reservation, agent_id: int, claims: "dict[int, Place]") -> None:
        self.reservation = reservation
        self.agent_id = agent_id
        self._taken_at = time.monotonic()
        self.execution_id: int | None = None
        self.is_stopped = False
        self._claims = claims

    @property
    def age_ms(self) -> float:
        """How long it has been taken."""
        return round((time.monotonic() - self._taken_at) * 1000, 1)

    def claim(self, execution_id: int) -> None:
        """Say whose place it is; in the transaction that inserts the row.

        Later, recovery could find the row and nobody who holds it.
        """
        self.execution_id = execution_id
        self._claims[execution_id] = self

    def stop(self) -> None:
        """Let it run no more, and wait no more, from another thread; what runs is ended after."""
        self.is_stopped = True
        self.reservation.abandon()


class Executor:
    """Runs versions in the sandbox, a bounded number at once, and can stop each."""

    def __init__(
        self,
        *,
        slots: SlotPool,
        sandbox: Supervisor,
        store: ArtifactStore,
        limits: Limits,
        import_limits: Limits,
        caps: Caps,
        reader: Reader,
        disk: DiskReserve,
    ) -> None:
        self.slots = slots
        self._disk = disk
        self._sandbox = sandbox
        self._store = store
        self._limits = limits
        self._import_limits = import_limits
        self._caps = caps
        self._reader = reader
        self._held: dict[int, Place] = {}
        self._kept_ends: dict[int, End] = {}
        self._watchers: dict[int, list[threading.Event]] = {}
        self._polls: Counter[int] = Counter()  # by user
        self._threads: ThreadPoolExecutor | None = None
        self._is_ending = False
        self._lock = threading.Lock()

    # --- the life of the server ---

    def begin(self) -> None:
        """Take executions, also after an earlier `end`."""
        self._is_ending = False
        # Kept threads, as each keeps a connection to the database open.
        self._threads = ThreadPoolExecutor(self.slots.capacity, thread_name_prefix="execution")
        self.slots.open()

    def interrupt(self) -> None:
        """Take no more executions and kill those that run: a restart interrupted them."""
        self.slots.close()
        self._is_ending = True
        deadline = time.monotonic() + _INTERRUPT_SECONDS
        for execution_id in tuple(self._held):
            if time.monotonic() < deadline:  # past it the sandbox itself is stuck
                self._stop(execution_id, grace_seconds=0.0)

    def end(self) -> None:
        """End the threads, when nothing runs any more."""
        if self._threads is not None:
            self._threads.shutdown()

    @property
    def held(self) -> Container[int]:
        """The executions of this process whose end is not written, at the moment of asking."""
        return self._held

    # --- one execution ---

    @contextmanager
    def place(self, user: User, version: AgentVersion) -> Iterator[Place]:
        """Give a slot or a place in line for as long as the block.

        Raises Overloaded, AgentBusy, and DiskFull where there is no room for what would come of it.
        """
        self._disk.require()
        self._require_memory()
        place = None
        try:
            with self.slots.reserve(version.agent_id, version.concurrency, user.id) as reservation:
                place = Place(reservation, version.agent_id, self._held)
                yield place
        finally:
            # Only now: who hears of the end and comes again finds the slot free.
            if place is not None:
                self._release(place)

    def in_background(self, action: Callable[[], object], place: ExitStack) -> None:
        """Call `action` on another thread and leave `place` after it. Raises Overloaded."""

        def run() -> None:
            with place:
                try:
                    action()
                except Exception:
                    logger.exception("event=execution_crashed")

        try:
            if self._threads is None:
                raise RuntimeError("not begun")
            self._threads.submit(run)
        except RuntimeError as exc:  # out of threads, or ending
            place.close()
            raise Overloaded("The server cannot run it now", retry_after_seconds=5) from exc

    def run(self, place: Place, version: AgentVersion, payload: bytes) -> Outcome:
        """Run the version's entrypoint on a payload of JSON text, for the execution of a place.

        Raises BuildError, and ReadingCancelled when it was stopped while its code was unpacked.
        """
        key = _job_key(place.execution_id)

        def is_wanted() -> bool:
            # Whoever cancels, or deletes the agent, decides the row first and marks the place then,
            # before the run is looked for. What stops the server may run out of time before this
            # one. (test_what_is_stopped_before_its_run_never_comes_to_a_child)
            return not (self._is_ending or place.is_stopped)

        folder = self._store.code_dir(version.agent_id, version.id)
        if not folder.is_dir():
            ensure_code(
                version, store=self._store, reader=self._reader, key=key, is_wanted=is_wanted
            )
            remove_if_gone(version, store=self._store)
        job = Job(
            Mode.EXECUTE,
            execution_limits(self._limits, asked_limits(version), self._caps),
            str(folder),
            version.entrypoint,
            allows_processes=version.allows_processes,
        )
        name = template_name(version.agent_id, version.id)
        outcome = self._sandbox.run(job, payload, key=key, is_wanted=is_wanted, template=name)
        if not outcome.is_warm and outcome.reason not in _TELLING_OF_NO_IMPORT:
            self._keep_warm(name, job)
        return self._judged(outcome)

    def _keep_warm(self, name: str, job: Job) -> None:
        """Have the version imported ahead for the runs that follow."""
        if not job.allows_processes:
            limits = template_limits(job.limits, self._import_limits)
            self._sandbox.templates.want(name, replace(job, mode=Mode.TEMPLATE, limits=limits))

    def _judged(self, outcome: Outcome) -> Outcome:
        """Tell a job that ended with the server from one that the sandbox failed to run.

        Who cancels closes the row first, so what is written here of a cancelled job is not read.
        """
        ours = (StopReason.CANCELLED, StopReason.SANDBOX_FAILURE)
        if self._is_ending and outcome.reason in ours:
            return replace(outcome, reason=StopReason.SERVER_ENDED, message=INTERRUPTED)
        return outcome

    # --- ends that the database did not take ---

    def keep_end(self, execution_id: int, end: End) -> None:
        """Hold an execution until `release_end`, though it has ended; while it has its place."""
        with self._lock:
            self._kept_ends[execution_id] = end

    def kept_ends(self) -> list[tuple[int, End]]:
        """Return the ends that wait to be written, oldest first."""
        with self._lock:
            return list(self._kept_ends.items())

    def release_end(self, execution_id: int) -> None:
        """Let go of an execution whose end is written, and tell who waits for it."""
        with self._lock:
            self._kept_ends.pop(execution_id, None)
            self._held.pop(execution_id, None)
        self._tell(execution_id)

    def _require_memory(self) -> None:
        if sum(end.size for _, end in self.kept_ends()) > KEPT_ENDS_BYTES:
            raise Overloaded(
                "The server has yet to write down how earlier executions ended",
                _ENDS_RETRY_SECONDS,
            )

    # --- who ends one ---

    def cancel(self, execution_id: int) -> None:
        """End an execution wherever it is: waiting, unpacking or running. Its row is final.

        Agent code hears of it by SIGTERM and may take two seconds, which nobody waits for here.
        """
        self._stop(execution_id, grace_seconds=_CANCEL_GRACE_SECONDS)
        self._tell(execution_id)

    def kill_agent(self, agent_id: int) -> None:
        """End all executions of an agent at once, those in their grace too. Its rows are gone.

        When this returns none of them runs; what is being unpacked for one will not be run.
        """
        self._sandbox.templates.drop_all(template_name(agent_id))
        held = tuple(self._held.items())
        for execution_id in [one for one, place in held if place.agent_id == agent_id]:
            self._stop(execution_id, grace_seconds=0.0)
            self._tell(execution_id)

    def _stop(self, execution_id: int, *, grace_seconds: float) -> None:
        place = self._held.get(execution_id)
        if place is not None:
            place.stop()
        key = _job_key(execution_id)
        self._reader.cancel(key)
        self._sandbox.cancel(key, grace_seconds=grace_seconds)

    # --- who waits for the end of one ---

    def wait_for_end(self, execution_id: int, seconds: float) -> None:
        """Wait until an execution of this process has ended, at most so long."""
        ended = threading.Event()
        with self._lock:
            if execution_id not in self._held:
                return
            self._watchers.setdefault(execution_id, []).append(ended)
        try:
            ended.wait(seconds)
        finally:
            with self._lock:
                watchers = self._watchers.get(execution_id, [])
                if ended in watchers:
                    watchers.remove(ended)
                if not watchers:
                    self._watchers.pop(execution_id, None)

    def poll(self, user_id: int, execution_id: int, seconds: float) -> bool:
        """Wait likewise; tells whether it did, for too many may do so already.

        Half of those who may wait are for other users.
        """
        with self._lock:
            is_full = self._polls.total() >= LONG_POLLS
            if is_full or self._polls[user_id] >= LONG_POLLS // 2:
                return False
            self._polls[user_id] += 1
        try:
            self.wait_for_end(execution_id, seconds)
        finally:
            with self._lock:
                self._polls[user_id] -= 1
                if not self._polls[user_id]:
                    del self._polls[user_id]
        return True

    def _release(self, place: Place) -> None:
        with self._lock:
            # The id of an insert that failed goes to the next one, and the claim with it.
            if place.execution_id is None or self._held.get(place.execution_id) is not place:
                return
            if place.execution_id in self._kept_ends:  # whoever waits for its end waits on
                return
            del self._held[place.execution_id]
        self._tell(place.execution_id)

    def _tell(self, execution_id: int) -> None:
        with self._lock:
            watchers = self._watchers.pop(execution_id, [])
        for ended in watchers:
            ended.set()


def has_status(execution_id: int, status: ExecutionStatus) -> bool:
    """Tell whether an execution is there and stands so."""
    row = _STATUS_BY_ID.find(execution_id)
    return row is not None and row.status == status


def _job_key(execution_id: int | None) -> str:
    return f"execution-{execution_id}"
