"""The build queue: a hint arrives once and at once, and no queue file stops the builds."""

import pickle
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huey import SqliteHuey

from anymind_lite import tasks
from anymind_lite.tasks import BuildQueue
from tests.processes import open_descriptors
from tests.waiting import DEADLINE_SECONDS, wait_for


class Builds:
    """Remembers what was built and lets a test wait for it."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._arrived = threading.Condition()

    def build(self, version_id: int) -> None:
        with self._arrived:
            self.ids.append(version_id)
            self._arrived.notify_all()

    def wait_for(self, *ids: int) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: set(ids) <= set(self.ids), DEADLINE_SECONDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def queue(path: Path, builds: Builds) -> Iterator[BuildQueue]:
    queue = BuildQueue(path, workers=2, build=builds.build)
    yield queue
    queue.stop()


def put_message(path: Path, message: bytes) -> None:
    """Put bytes into the queue as if they had been enqueued."""
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO task (queue, data) VALUES ('builds', ?)", (message,))
    connection.close()


def test_every_id_arrives_exactly_once(queue: BuildQueue, builds: Builds) -> None:
    queue.start()
    for version_id in range(1, 201):
        queue.enqueue(version_id)
    builds.wait_for(*range(1, 201))
    wait_for(queue.is_empty, "the queue to be empty")
    queue.stop()
    assert Counter(builds.ids) == dict.fromkeys(range(1, 201), 1)


def test_ids_from_many_threads_arrive(queue: BuildQueue, builds: Builds) -> None:
    queue.start()
    threads = [threading.Thread(target=queue.enqueue, args=(number,)) for number in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    builds.wait_for(*range(1, 33))


def test_idle_worker_is_woken_and_does_not_poll(
    queue: BuildQueue, builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_IDLE_SECONDS", 10 * DEADLINE_SECONDS)
    queue.start()
    for version_id in (1, 2, 3):
        queue.enqueue(version_id)
        builds.wait_for(version_id)


def test_what_is_queued_survives_a_restart(path: Path, builds: Builds) -> None:
    before = BuildQueue(path, workers=0, build=builds.build)
    before.start()
    before.enqueue(7)
    before.stop()
    after = BuildQueue(path, workers=1, build=builds.build)
    after.start()
    builds.wait_for(7)
    after.stop()


def test_one_queue_can_be_started_again(queue: BuildQueue, builds: Builds) -> None:
    for version_id in (1, 2):
        queue.start()
        queue.enqueue(version_id)
        builds.wait_for(version_id)
        queue.stop()
        queue.stop()


def test_stop_ends_its_threads_and_closes_its_files(queue: BuildQueue) -> None:
    threads, files = threading.active_count(), open_descriptors()
    queue.start()
    assert threading.active_count() > threads
    queue.stop()
    assert threading.active_count() == threads
    assert open_descriptors() == files


def test_stop_waits_for_the_build_that_runs(path: Path) -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def build(_version_id: int) -> None:
        began.set()
        may_end.wait(DEADLINE_SECONDS)
        ended.set()

    queue = BuildQueue(path, workers=1, build=build)
    queue.start()
    queue.enqueue(1)
    assert began.wait(DEADLINE_SECONDS)
    stopper = threading.Thread(target=queue.stop)
    stopper.start()
    may_end.set()
    stopper.join(DEADLINE_SECONDS)
    assert ended.is_set()


def test_failing_build_does_not_end_its_worker(path: Path, builds: Builds) -> None:
    def build(version_id: int) -> None:
        builds.build(version_id)
        raise ValueError("ours")

    queue = BuildQueue(path, workers=1, build=build)
    queue.start()
    for version_id in (1, 2, 3):
        queue.enqueue(version_id)
    builds.wait_for(1, 2, 3)
    queue.stop()


MESSAGES = [
    b"",
    b"no pickle",
    b"\x80",
    pickle.dumps(None),
    pickle.dumps(5),
    pickle.dumps(("a", "b")),
    pickle.dumps({"name": "build_version"}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_senseless_message_is_passed_over(
    queue: BuildQueue, builds: Builds, path: Path, message: bytes
) -> None:
    queue.start()
    put_message(path, message)
    queue.enqueue(1)
    builds.wait_for(1)
    wait_for(queue.is_empty, "the message to go")
    queue.stop()
    assert builds.ids == [1]


def test_thousands_of_senseless_messages_delay_no_build(
    path: Path, queue: BuildQueue, builds: Builds, caplog: pytest.LogCaptureFixture
) -> None:
    queue.start()
    queue.stop()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO task (queue, data) VALUES ('builds', ?)",
            [(MESSAGES[number % len(MESSAGES)],) for number in range(10_000)],
        )
    started = time.monotonic()
    queue.start()
    queue.enqueue(1)
    builds.wait_for(1)
    assert time.monotonic() - started < 10  # it takes 2; half a second each would be an hour
    wait_for(queue.is_empty, "the messages to go")
    queue.stop()
    told = [record for record in caplog.records if "messages_unreadable" in record.getMessage()]
    assert sum(record.args[0] for record in told) == 10_000  # type: ignore[misc, index]
    assert len(told) <= 2  # one for each worker
    assert "Traceback" not in caplog.text


def test_stop_does_not_wait_for_senseless_messages(path: Path, queue: BuildQueue) -> None:
    queue.start()
    queue.stop()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO task (queue, data) VALUES ('builds', ?)", [(b"",)] * 10_000
        )
    queue.start()
    queue.stop()
    queue.start()
    assert not queue.is_empty()


@pytest.mark.parametrize("running", [0, 1, 2])
def test_start_that_gets_no_thread_leaves_nothing(
    queue: BuildQueue, builds: Builds, monkeypatch: pytest.MonkeyPatch, running: int
) -> None:
    threads, files = threading.active_count(), open_descriptors()
    start, started = threading.Thread.start, [0]

    def start_few(thread: threading.Thread) -> None:
        if started[0] == running:
            raise RuntimeError("can't start new thread")
        started[0] += 1
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_few)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            queue.start()
    assert threading.active_count() == threads
    assert open_descriptors() == files
    assert not queue.is_alive
    queue.start()
    queue.enqueue(1)
    builds.wait_for(1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unknown", (1,)),
        ("build_version", ()),
        ("build_version", (1, 2)),
        ("build_version", ("1",)),
        ("build_version", (None,)),
        ("build_version", ([1],)),
    ],
)
def test_task_that_is_not_ours_or_malformed_is_passed_over(
    path: Path, queue: BuildQueue, builds: Builds, name: str, arguments: tuple[object, ...]
) -> None:
    other = SqliteHuey("builds", filename=str(path))
    other.task(name=name)(lambda *_: None)(*arguments)
    other.storage.close()
    queue.start()
    queue.enqueue(9)
    builds.wait_for(9)
    wait_for(queue.is_empty, "the message to go")
    queue.stop()
    assert builds.ids == [9]


def spoil_header(path: Path) -> None:
    path.write_bytes(b"\xaa" * 100 + path.read_bytes()[100:])


def spoil_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


SPOILERS: list[Callable[[Path], None]] = [spoil_header, spoil_pages, cut, empty, delete]


@pytest.mark.parametrize("spoil", SPOILERS)
class TestSpoiledFile:
    def test_is_replaced_at_start(
        self, queue: BuildQueue, builds: Builds, path: Path, spoil: Callable[[Path], None]
    ) -> None:
        queue.start()
        queue.stop()
        spoil(path)
        queue.start()
        queue.enqueue(1)
        builds.wait_for(1)
        assert path.stat().st_mode & 0o777 == 0o600

    def test_stops_no_builds_while_the_server_runs(
        self, queue: BuildQueue, builds: Builds, path: Path, spoil: Callable[[Path], None]
    ) -> None:
        queue.start()
        queue.enqueue(1)
        builds.wait_for(1)
        spoil(path)
        queue.enqueue(2)  # may be lost, and may not raise: recovery hints again

        def hint_again() -> bool:
            if queue.is_empty():
                queue.enqueue(2)
            return 2 in builds.ids

        wait_for(hint_again, "a build")
