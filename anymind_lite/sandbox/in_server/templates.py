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
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.in_server.usage import Usage
from anymind_lite.sandbox.policy import MEGABYTE
from anymind_lite.sandbox.protocol import Job

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_MOST_REMEMBERED = 4096
_MOST_DEATHS = 3
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


MakeTemplate = Callable[[Job, int, ExitStack], tuple[Outcome, Conversation]]


class TemplatePool:
    """The templates of one server. `memory_bytes` bounds them all together; 0 is none at all."""

    def __init__(self, make: MakeTemplate, *, memory_bytes: int) -> None:
        self._make = make
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._standing: OrderedDict[str, Standing] = OrderedDict()  # the last used at the end
        self._unfit: OrderedDict[str, str] = OrderedDict()
        self._deaths: OrderedDict[str, int] = OrderedDict()
        self._wanted: dict[str, Job] = {}
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._number = 0
        self._threads: list[threading.Thread] = []
        self._waker, self._woken = None, None

    @property
    def is_on(self) -> bool:
        """Whether templates are made at all."""
        return self._memory_bytes > 0

    def start(self) -> None:
        """Begin to make templates."""
        if not self.is_on:
            return
        self._waker, self._woken = socket.socketpair()
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
        self._orders.put(None)
        self._waker.close()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._woken.close()
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
            return standing.number

    def want(self, name: str, job: Job) -> None:
        """Have a template made, if it may be and is not being made; returns at once."""
        if not self._threads:
            return
        with self._lock:
            if name in self._wanted or name in self._standing or name in self._unfit:
                return
            self._wanted[name] = job
        self._orders.put(name)

    def why_unfit(self, name: str) -> str:
        """Tell why a name gets no template any more, "" if nothing speaks against it."""
        return self._unfit.get(name, "")

    def drop(self, name: str) -> None:
        """End a template; its runs go on. Nothing is remembered of it."""
        with self._lock:
            standing = self._standing.pop(name, None)
            self._wanted.pop(name, None)
            self._unfit.pop(name, None)
            self._deaths.pop(name, None)
        if standing is not None:
            standing.resources.close()

    def prepare(self, name: str, job: Job) -> str:
        """Make a template in the calling thread; tell why it cannot be, "" when it stands."""
        if not self._threads:
            return ""
        with self._lock:
            if name in self._standing:
                return ""
            self._wanted[name] = job
        self._make_one(name)
        return self.why_unfit(name)

    # --- the life of templates ---

    def _make_wanted(self) -> None:
        while (name := self._orders.get()) is not None:
            try:
                self._make_one(name)
            except Exception:
                logger.exception("event=template_crashed name=%s", name)

    def _make_one(self, name: str) -> None:
        with self._lock:
            job = self._wanted.get(name)
            self._number += 1
            number = self._number
        if job is None:
            return  # dropped meanwhile
        resources = ExitStack()
        outcome, conversation = self._make(job, number, resources)
        reason, usage = self._judge(outcome, conversation)
        if reason or usage is None:
            resources.close()
            self._give_up(name, outcome, reason)
            return
        lease = conversation.keep_lease_alone()
        standing = Standing(number, conversation, resources, lease, usage.private_bytes)
        with self._lock:
            is_wanted = self._wanted.pop(name, None) is not None
            if is_wanted:
                self._standing[name] = standing
        if not is_wanted:
            resources.close()
            return
        logger.info(
            "event=template_made name=%s memory_mb=%d", name, usage.private_bytes // MEGABYTE
        )
        self._wake()
        self._shrink(self._memory_bytes)

    def _judge(self, outcome: Outcome, conversation: Conversation) -> tuple[str, Usage | None]:
        """Tell why a template cannot be used, and else what it uses."""
        if outcome.reason is not StopReason.RETURNED:
            return outcome.message, None
        usage = conversation.usage()
        if usage is None:
            return "it ended", None
        if usage.threads > 1:
            return "it started a thread", None
        if usage.shared_bytes:
            return "it left shared memory", None
        return "", usage

    def _give_up(self, name: str, outcome: Outcome, reason: str) -> None:
        with self._lock:
            self._wanted.pop(name, None)
            if outcome.reason not in _PASSING:
                _remember(self._unfit, name, reason)
        logger.info("event=template_unfit name=%s reason=%r", name, reason)

    def _shrink(self, most_bytes: int) -> None:
        """End those that were not used for longest until the others fit."""
        while True:
            with self._lock:
                total = sum(one.memory_bytes for one in self._standing.values())
                if total <= most_bytes or not self._standing:
                    return
                name, standing = self._standing.popitem(last=False)
            standing.resources.close()
            logger.info("event=template_evicted name=%s", name)

    def _watch(self) -> None:
        """Notice templates that end by themselves, and a machine that runs short of memory."""
        while True:
            poller = select.poll()
            poller.register(self._woken, select.POLLIN)
            with self._lock:
                leases = {one.lease.fileno(): name for name, one in self._standing.items()}
            for fd in leases:
                poller.register(fd, select.POLLIN)
            events = poller.poll(_LOOK_SECONDS * 1000 if leases else None)
            for fd, _event in events:
                if fd == self._woken.fileno():
                    if not self._woken.recv(1024):
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
            deaths = self._deaths.get(name, 0) + 1
            _remember(self._deaths, name, deaths)
            if deaths >= _MOST_DEATHS:
                _remember(self._unfit, name, f"it ended {deaths} times")
        standing.resources.close()
        logger.info("event=template_ended name=%s times=%d", name, deaths)

    def _wake(self) -> None:
        try:
            self._waker.send(b"x")
        except OSError:
            pass  # The pool is ending.


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
