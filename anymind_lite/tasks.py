"""The build queue: Huey behind `enqueue`, `start` and `stop`.

A message in the queue is a hint that a version waits; the version's row is the truth, so a lost,
doubled or senseless message harms nothing, and the queue file may be thrown away.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from huey import SqliteHuey
from huey.consumer import Consumer
from huey.storage import SqliteStorage

logger = logging.getLogger(__name__)

_TASK_NAME = "build_version"
_IDLE_SECONDS = 1.0
_STOP_SECONDS = 10.0


class _WakingStorage(SqliteStorage):
    """A SQLite queue whose `dequeue` waits for an `enqueue` of this process instead of polling.

    Huey's polling backs off: after idling, a build would start seconds late.
    """

    blocking = True  # tells Huey's worker not to sleep between calls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival = threading.Condition()
        self.is_closing = False

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        super().enqueue(data, priority)
        with self._arrival:
            self._arrival.notify()

    def dequeue(self) -> bytes | None:
        with self._arrival:
            data: bytes | None = super().dequeue()
            if data is None and not self.is_closing:
                self._arrival.wait(_IDLE_SECONDS)
                data = super().dequeue()
        return data

    def wake_all(self) -> None:
        """Let every waiting worker look at its stop flag."""
        with self._arrival:
            self.is_closing = True
            self._arrival.notify_all()


class _Huey(SqliteHuey):
    """A Huey that passes over what it cannot read, which its worker would back off from."""

    def dequeue(self) -> Any:
        """Return the next task that can be read; None when none came for a while."""
        unreadable = 0
        task = None
        while not self.storage.is_closing and (data := self.storage.dequeue()) is not None:
            try:
                task = self.deserialize_task(data)
                break
            except Exception:  # noqa: BLE001 - senseless bytes raise anything
                unreadable += 1
        if unreadable:
            logger.warning("event=messages_unreadable count=%d", unreadable)
        return task


class _Consumer(Consumer):
    """A consumer that leaves the process's signals alone: they are the serve command's."""

    def _set_signal_handlers(self) -> None:
        pass


class BuildQueue:
    """Calls `build(version_id)` on worker threads for every id that was enqueued.

    `build` decides by the row whether there is anything to do, and handles its own errors.
    `interrupt` makes the running calls of it return soon.
    """

    def __init__(
        self,
        path: Path,
        *,
        workers: int,
        build: Callable[[int], None],
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._workers = workers
        self._build = build
        self._interrupt = interrupt
        self._consumer: Consumer | None = None

    def start(self) -> None:
        """Open the queue, replacing a damaged file, and start the workers: all of them or none."""
        self._huey = self._open()
        self._task = self._huey.task(name=_TASK_NAME, retries=0)(self._run)
        self._consumer = self._new_consumer()
        try:
            self._consumer.start()
        except BaseException:
            self.stop()
            raise

    def _new_consumer(self) -> Consumer:
        return _Consumer(
            self._huey,
            workers=self._workers,
            periodic=False,
            check_worker_health=False,
            scheduler_interval=60,  # nothing is ever scheduled
            max_delay=_IDLE_SECONDS,  # where the queue itself cannot be read
        )

    def stop(self) -> None:
        """Interrupt running builds and end the workers; what is queued stays queued."""
        if self._consumer is None:
            return
        self._consumer.stop_flag.set()
        self._huey.storage.wake_all()
        self._interrupt()
        workers = [thread for _worker, thread in self._consumer.worker_threads]
        for thread in (*workers, self._consumer.scheduler):
            if thread.ident is not None:  # it was started
                thread.join(_STOP_SECONDS)
        self._huey.storage.close()
        self._consumer = None

    def enqueue(self, version_id: int) -> None:
        """Hint that a version waits to be built. A queue that cannot be written is only logged:
        recovery finds the row.
        """
        try:
            self._task(version_id)
        except sqlite3.Error:
            logger.exception("event=enqueue_failed version_id=%d", version_id)

    @property
    def is_alive(self) -> bool:
        """Whether every worker waits for hints or builds."""
        consumer = self._consumer
        return consumer is not None and all(
            thread.is_alive() for _worker, thread in consumer.worker_threads
        )

    def is_empty(self) -> bool:
        """Tell whether no hint waits."""
        return bool(self._huey.storage.queue_size() == 0)

    def _run(self, version_id: object) -> None:
        if isinstance(version_id, int):
            self._build(version_id)

    def _open(self) -> _Huey:
        if not _is_sound(self._path):
            logger.warning("event=queue_replaced path=%s", self._path)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        # No results, no fsync: a lost message costs nothing (see above). 0600: it holds pickles.
        self._path.touch(mode=0o600)
        return _Huey(
            "builds",
            filename=str(self._path),
            fsync=False,
            results=False,
            storage_class=_WakingStorage,
        )


def _is_sound(path: Path) -> bool:
    """Tell whether a queue file can be used; one that is not there can.

    On a connection of its own: the file may be deleted only once nobody has it open (SQLite
    manual, "How To Corrupt", 2.4), and Huey keeps one that it failed on.
    """
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(path)) as connection:
            verdict: tuple[str] = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError:
        return False
    return verdict == ("ok",)
