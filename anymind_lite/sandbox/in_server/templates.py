"""The pool of templates: which versions are kept imported, and for how long.

Runs in the server. A template is asked for by a name, made in the background one at a time, and
used by the runs that come while it stands; without one a run is only slower. The least recently
used go first when all together outgrow the memory that they may have, and all go when the machine
runs short of it. What agent code leaves behind at its import may make a version unfit: that is
remembered, and told.
"""

import logging
import select
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.in_server.usage import Usage
from anymind_lite.sandbox.policy import MEGABYTE
from anymind_lite.sandbox.protocol import Job, hang_up, receive_message

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_MOST_REMEMBERED = 4096
_MOST_DEATHS = 3
_MANY_RUNS = 1000  # a template that has served so many is no worse for its end
_MOST_TEMPLATES = 128  # each takes three processes and as many descriptors here as in the zygote
_LEAST_FREE_SHARE = 0.05  # of the machine's memory: below it templates go
_LOOK_SECONDS = 5.0
# What passes by itself; anything else will be so again, as the code is the same.
_PASSING = {StopReason.SANDBOX_FAILURE, StopReason.CANCELLED}


@dataclass
class Standing:
    """A template that stands: its number for the zygote, its conversation, the memory it takes."""

    number: int
    conversation: Conversation
    resources: ExitStack
    lease: socket.socket
    memory_bytes: int
    runs: int = 0

    def end(self) -> None:
        """Have the zygote end it, and close what is ours.

        The thread that polls the lease keeps it from being closed until it looks again.
        """
        hang_up(self.lease)
        self.resources.close()


@dataclass(frozen=True)
class Wish:
    """What is to be made: by which job, under which key it can be cancelled, whether still."""

    name: str
    job: Job
    key: str
    is_wanted: Callable[[], bool]


MakeTemplate = Callable[[Wish, int, ExitStack], tuple[Outcome, Conversation]]


class Bell:
    """Wakes a thread that polls `fd`; `end` ends it."""

    def __init__(self) -> None:
        self._rope, self._clapper = socket.socketpair()

    @property
    def fd(self) -> int:
        """What to poll."""
        return self._clapper.fileno()

    def ring(self) -> None:
        """Wake the thread."""
        try:
            self._rope.send(b"x")
        except OSError:
            pass  # It is ending.

    def answer(self) -> bool:
        """Be ready for the next ring; tells whether to go on."""
        return bool(self._clapper.recv(1024))

    def end(self) -> None:
        """End the thread."""
        self._rope.close()

    def close(self) -> None:
        """Close what the thread polled, which is over."""
        self._clapper.close()


class TemplatePool:
    """The templates of one server. `memory_bytes` bounds them all together; 0 is none at all."""

    def __init__(self, make: MakeTemplate, *, memory_bytes: int) -> None:
        self._make = make
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._standing: OrderedDict[str, Standing] = OrderedDict()  # the last used at the end
        self._unfit: OrderedDict[str, str] = OrderedDict()
        self._deaths: OrderedDict[str, int] = OrderedDict()
        self._wanted: dict[str, Wish] = {}
        self._wishes: SimpleQueue[Wish | None] = SimpleQueue()
        self._number = 0
        self._threads: list[threading.Thread] = []

    @property
    def is_serving(self) -> bool:
        """Whether templates are made now."""
        return bool(self._threads)

    def start(self) -> None:
        """Begin to make templates."""
        if not self._memory_bytes:
            return
        self._bell = Bell()
        self._threads = [
            threading.Thread(target=self._make_wanted, name="templates", daemon=True),
            threading.Thread(target=self._watch, name="template-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every template and wait for the threads."""
        if not self._threads:
            return
        self._wishes.put(None)
        self._bell.end()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._bell.close()
        for name in list(self._standing):
            self.drop(name)
        self._unfit.clear()
        self._deaths.clear()

    # --- for the runs ---

    def number_of(self, name: str) -> int | None:
        """Return the zygote's number for a template that stands, and count it as used."""
        with self._lock:
            standing = self._standing.get(name)
            if standing is None:
                return None
            self._standing.move_to_end(name)
            standing.runs += 1
            return standing.number

    def want(self, name: str, job: Job) -> None:
        """Have a template made, if it may be and is not being made; returns at once."""
        if not self._threads:
            return
        with self._lock:
            if name in self._wanted or name in self._standing or name in self._unfit:
                return
            wish = Wish(name, job, f"template-{name}", lambda: name in self._wanted)
            self._wanted[name] = wish
        self._wishes.put(wish)

    def prepare(self, name: str, job: Job, *, key: str, is_wanted: Callable[[], bool]) -> Outcome:
        """Make a template in the calling thread, whatever is known of the name; tell how it went.

        `key` and `is_wanted` are as for `Supervisor.run`.
        """
        wish = Wish(name, job, key, is_wanted)
        self.drop(name)
        with self._lock:
            self._wanted[name] = wish
        return self._make_one(wish)

    def drop(self, name: str) -> None:
        """End a template; its runs go on. Nothing is remembered of it."""
        with self._lock:
            standing = self._standing.pop(name, None)
            for memory in (self._wanted, self._unfit, self._deaths):
                memory.pop(name, None)
        if standing is not None:
            standing.end()

    def drop_all(self, beginning: str, *, but: str = "") -> None:
        """End every template whose name begins so, but one."""
        with self._lock:
            names = {*self._standing, *self._wanted, *self._unfit, *self._deaths}
        for name in names:
            if name.startswith(beginning) and name != but:
                self.drop(name)

    # --- the life of templates ---

    def _make_wanted(self) -> None:
        while (wish := self._wishes.get()) is not None:
            try:
                if wish.is_wanted():
                    self._make_one(wish)
            except Exception:
                logger.exception("event=template_crashed name=%s", wish.name)
                self.drop(wish.name)

    def _make_one(self, wish: Wish) -> Outcome:
        with self._lock:
            self._number += 1
            number = self._number
        resources = ExitStack()
        try:
            outcome, conversation = self._make(wish, number, resources)
            outcome, usage = _judge(outcome, conversation)
            if usage is None:
                self._give_up(wish.name, outcome)
            else:
                self._keep(wish, conversation, resources.pop_all(), number, usage)
        finally:
            resources.close()
        return outcome

    def _keep(
        self,
        wish: Wish,
        conversation: Conversation,
        resources: ExitStack,
        number: int,
        usage: Usage,
    ) -> None:
        lease = conversation.keep_lease_alone()
        standing = Standing(number, conversation, resources, lease, usage.private_bytes)
        with self._lock:
            is_wanted = self._wanted.pop(wish.name, None) is wish
            if is_wanted:
                self._standing[wish.name] = standing
        if not is_wanted:
            resources.close()
            return
        megabytes = usage.private_bytes // MEGABYTE
        logger.info("event=template_made name=%s memory_mb=%d", wish.name, megabytes)
        self._bell.ring()
        self._shrink(self._memory_bytes)

    def _give_up(self, name: str, outcome: Outcome) -> None:
        with self._lock:
            self._wanted.pop(name, None)
            if outcome.reason not in _PASSING:
                _remember(self._unfit, name, outcome.message)
        logger.info(
            "event=template_not_made name=%s reason=%s why=%r",
            name,
            outcome.reason,
            outcome.message,
        )

    def _shrink(self, most_bytes: int) -> None:
        """End those that were not used for longest until the others fit."""
        while True:
            with self._lock:
                total = sum(one.memory_bytes for one in self._standing.values())
                is_full = total > most_bytes or len(self._standing) > _MOST_TEMPLATES
                if not (is_full and self._standing):
                    return
                name, standing = self._standing.popitem(last=False)
            standing.end()
            logger.info("event=template_evicted name=%s", name)

    def _watch(self) -> None:
        """Notice templates that end by themselves, and a machine that runs short of memory."""
        while True:
            poller = select.poll()
            poller.register(self._bell.fd, select.POLLIN)
            with self._lock:
                leases = {one.lease.fileno(): name for name, one in self._standing.items()}
            for fd in leases:
                poller.register(fd, select.POLLIN)
            events = poller.poll(_LOOK_SECONDS * 1000 if leases else None)
            for fd, _event in events:
                if fd == self._bell.fd:
                    if not self._bell.answer():
                        return
                else:
                    self._bury(leases[fd], fd)
            if _free_share() < _LEAST_FREE_SHARE:
                self._shrink(0)

    def _bury(self, name: str, fd: int) -> None:
        with self._lock:
            standing = self._standing.get(name)
            if standing is None or standing.lease.fileno() != fd:
                return
            del self._standing[name]
            is_to_blame = standing.runs < _MANY_RUNS and _is_told(standing.lease)
            deaths = self._deaths.get(name, 0) + is_to_blame
            _remember(self._deaths, name, deaths)
            if deaths >= _MOST_DEATHS:
                _remember(self._unfit, name, f"it ended {deaths} times")
        standing.end()
        logger.info("event=template_ended name=%s times=%d", name, deaths)


def _judge(outcome: Outcome, conversation: Conversation) -> tuple[Outcome, Usage | None]:
    """Look at a template from outside: at what code that means well does not know of itself."""
    if outcome.reason is not StopReason.RETURNED:
        return outcome, None
    usage = conversation.usage()
    if usage is None:
        message = "The template ended."
        return replace(outcome, reason=StopReason.SANDBOX_FAILURE, message=message), None
    if usage.threads > 1:
        return replace(outcome, reason=StopReason.UNFIT, message="it started a thread"), None
    if usage.shared_bytes:
        return replace(outcome, reason=StopReason.UNFIT, message="it has shared memory"), None
    return outcome, usage


def _is_told(lease: socket.socket) -> bool:
    """Tell whether the zygote says that a template ended, and not that it ended itself."""
    try:
        receive_message(lease)
    except (EOFError, OSError):
        return False
    return True


def _remember(memory: "OrderedDict[str, _T]", name: str, value: _T) -> None:
    memory[name] = value
    if len(memory) > _MOST_REMEMBERED:
        memory.popitem(last=False)


def _free_share() -> float:
    """Return how much of the machine's memory can be had without swapping, 1.0 if unknown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["MemAvailable"].split()[0]) / int(fields["MemTotal"].split()[0])
    except (OSError, KeyError, ValueError):
        return 1.0
