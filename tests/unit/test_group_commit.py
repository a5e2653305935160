"""Group commit: one commit for all who wait, in order, and each one's part undone alone."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from peewee import OperationalError

from anymind_lite import group_commit
from anymind_lite.clock import utc_now
from anymind_lite.database import ServerDatabase, is_disk_full, write_transaction
from anymind_lite.group_commit import Turns
from anymind_lite.models import User
from tests.waiting import DEADLINE_SECONDS, wait_for


def add_user(name: str) -> None:
    User.create(email=name, username=name, password_hash="x", created_at=utc_now())


def write_user(name: str) -> None:
    with write_transaction():
        add_user(name)


def names() -> list[str]:
    return [user.username for user in User.select().order_by(User.id)]


class Crowd:
    """Threads that wait in line while a transaction of this thread is open."""

    def __init__(self, database: ServerDatabase, threads: ThreadPoolExecutor) -> None:
        self._turns = database._groups._turns
        self._threads = threads

    def line_up(self, *actions: Callable[[], None]) -> list[Future[None]]:
        """Have each called on a thread of its own; they stand in line in this order."""
        futures = []
        for action in actions:
            waiting = len(self._turns._line)
            futures.append(self._threads.submit(action))
            wait_for(lambda: len(self._turns._line) > waiting, "it to be in line")  # noqa: B023
        return futures


def write_before(
    crowd: Crowd,
    futures: list[Future[None]],
    *actions: Callable[[], None],
    error: BaseException | None = None,
) -> None:
    """Write a row, or fail with an error, when others are in line behind it."""
    with write_transaction():
        futures += crowd.line_up(*actions)
        add_user("a")
        if error is not None:
            raise error


@pytest.fixture
def crowd(database: ServerDatabase) -> Iterator[Crowd]:
    with ThreadPoolExecutor(8) as threads:
        yield Crowd(database, threads)


@pytest.fixture
def commits(database: ServerDatabase, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What could be read right after each commit. Groups stay open for as long as they like."""
    seen: list[list[str]] = []
    commit = ServerDatabase.commit

    def counted(self: ServerDatabase) -> None:
        commit(self)
        seen.append(names())

    monkeypatch.setattr(ServerDatabase, "commit", counted)
    monkeypatch.setattr(group_commit, "_OPEN_SECONDS", 60)
    return seen


def results(futures: list[Future[None]]) -> list[type[BaseException] | None]:
    errors = [future.exception(DEADLINE_SECONDS) for future in futures]
    return [None if error is None else type(error) for error in errors]


def test_who_waits_is_committed_together_in_order(crowd: Crowd, commits: list[list[str]]) -> None:
    def writer(name: str) -> Callable[[], None]:
        return lambda: write_user(name)

    with write_transaction():
        futures = crowd.line_up(*map(writer, "bcde"))
        add_user("a")
    assert results(futures) == [None] * 4
    assert commits == [list("abcde")]


def test_a_group_is_open_for_so_long_and_no_longer(
    crowd: Crowd, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_OPEN_SECONDS", 0)
    with write_transaction():
        futures = crowd.line_up(lambda: write_user("b"), lambda: write_user("c"))
        add_user("a")
    assert results(futures) == [None] * 2
    assert commits == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_the_wait_for_another_program_does_not_close_the_group(
    crowd: Crowd, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open from its beginning on, which may come seconds after it was asked for."""
    now = [0.0]
    begin = ServerDatabase.begin

    def begin_late(self: ServerDatabase, lock_type: str) -> None:
        now[0] += group_commit._OPEN_SECONDS
        begin(self, lock_type)

    monkeypatch.setattr(ServerDatabase, "begin", begin_late)
    monkeypatch.setattr(group_commit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    futures: list[Future[None]] = []
    write_before(crowd, futures, lambda: write_user("b"))
    assert results(futures) == [None]
    assert commits == [["a", "b"]]


def test_nobody_returns_and_nobody_reads_before_the_commit(
    crowd: Crowd, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, may_commit, is_reached = ServerDatabase.commit, threading.Event(), threading.Event()

    def held(self: ServerDatabase) -> None:
        is_reached.set()
        assert may_commit.wait(DEADLINE_SECONDS)
        commit(self)

    monkeypatch.setattr(ServerDatabase, "commit", held)
    with ThreadPoolExecutor(1) as first:

        def write_first() -> None:
            with write_transaction():
                futures.extend(crowd.line_up(lambda: write_user("b")))
                add_user("a")

        futures: list[Future[None]] = []
        futures.append(first.submit(write_first))
        assert is_reached.wait(DEADLINE_SECONDS)
        assert names() == []
        assert not any(future.done() for future in futures)
        may_commit.set()
        assert results(futures) == [None] * 2
    assert commits == [["a", "b"]]


def test_a_part_that_fails_is_undone_alone(crowd: Crowd, commits: list[list[str]]) -> None:
    def write_and_fail() -> None:
        with write_transaction():
            add_user("b")
            raise KeyError

    with write_transaction():
        futures = crowd.line_up(write_and_fail, lambda: write_user("c"))
        add_user("a")
    assert results(futures) == [KeyError, None]
    assert commits == [["a", "c"]]


def test_what_fails_first_leaves_a_new_transaction_to_the_next(
    crowd: Crowd, commits: list[list[str]]
) -> None:
    futures: list[Future[None]] = []
    with pytest.raises(KeyError):
        write_before(crowd, futures, lambda: write_user("b"), error=KeyError())
    assert results(futures) == [None]
    assert commits == [["b"]]


def test_what_fails_last_does_not_take_the_others_along(
    crowd: Crowd, commits: list[list[str]]
) -> None:
    def fail() -> None:
        with write_transaction():
            add_user("b")
            raise KeyError

    with write_transaction():
        futures = crowd.line_up(fail)
        add_user("a")
    assert results(futures) == [KeyError]
    assert commits == [["a"]]


def fail_on_a_full_disk(_: ServerDatabase) -> None:
    raise OperationalError("database or disk is full")


def find_and_fail() -> None:
    with write_transaction():
        raise KeyError(*names())


def test_commit_that_fails_is_told_to_all_and_ends_with_them(
    crowd: Crowd, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ServerDatabase, "commit", fail_on_a_full_disk)
        futures: list[Future[None]] = []
        with pytest.raises(OperationalError) as caught:
            write_before(crowd, futures, lambda: write_user("b"), lambda: write_user("c"))
        assert is_disk_full(caught.value)
        assert results(futures) == [OperationalError] * 2
    assert names() == []
    write_user("d")
    assert commits == [["d"]]


def test_who_fails_hears_of_it_after_the_commit_of_what_it_may_have_seen(
    crowd: Crowd, commits: list[list[str]]
) -> None:
    """Or an answer would tell of a row that a power cut still takes away."""
    is_reached, may_end = threading.Event(), threading.Event()

    def dawdle() -> None:
        with write_transaction():
            is_reached.set()
            assert may_end.wait(DEADLINE_SECONDS)

    def write_first() -> None:
        write_before(crowd, futures, find_and_fail, dawdle)

    futures: list[Future[None]] = []
    with ThreadPoolExecutor(1) as first:
        futures.append(first.submit(write_first))
        assert is_reached.wait(DEADLINE_SECONDS)
        with pytest.raises(TimeoutError):
            futures[1].exception(0.1)
        may_end.set()
        assert results(futures) == [None, KeyError, None]
    assert repr(futures[1].exception()) == "KeyError('a')"
    assert commits == [["a"]]


def test_what_was_found_in_a_group_that_is_not_written_is_not_told(
    crowd: Crowd, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerDatabase, "commit", fail_on_a_full_disk)
    futures: list[Future[None]] = []
    with pytest.raises(OperationalError):
        write_before(crowd, futures, find_and_fail)
    assert results(futures) == [OperationalError]


def test_what_sqlite_undoes_as_a_whole_is_told_to_all_before(
    database: ServerDatabase, crowd: Crowd, commits: list[list[str]]
) -> None:
    """At an input or output error it ends the transaction by itself."""

    def break_down() -> None:
        with write_transaction():
            database.execute_sql("ROLLBACK")
            raise OperationalError("disk I/O error")

    futures: list[Future[None]] = []
    with pytest.raises(OperationalError, match="disk I/O error"):
        write_before(crowd, futures, break_down, lambda: write_user("c"))
    assert results(futures) == [OperationalError, None]
    assert commits == [["c"]]


def test_what_must_be_durable_joins_no_group_that_is_not(
    database: ServerDatabase, crowd: Crowd, commits: list[list[str]]
) -> None:
    levels = []

    def look() -> None:
        with write_transaction():
            add_user("b")
            levels.append(database.execute_sql("PRAGMA synchronous").fetchone()[0])

    with write_transaction(is_durable=False):
        futures = crowd.line_up(look)
        add_user("a")
    assert results(futures) == [None]
    assert (commits, levels) == ([["a"], ["a", "b"]], [2])


def test_what_need_not_be_durable_goes_along_with_what_must(
    crowd: Crowd, commits: list[list[str]]
) -> None:
    def write_lightly() -> None:
        with write_transaction(is_durable=False):
            add_user("b")

    with write_transaction():
        futures = crowd.line_up(write_lightly)
        add_user("a")
    assert results(futures) == [None]
    assert commits == [["a", "b"]]


def test_many_threads_write_all_that_they_say(database: ServerDatabase) -> None:
    def write(thread: int) -> int:
        written = 0
        for number in range(50):
            try:
                with write_transaction(is_durable=bool(number % 3)):
                    add_user(f"{thread}-{number}")
                    if number % 5 == 0:
                        raise KeyError
            except KeyError:
                continue
            written += 1
        return written

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(8))) == len(names()) == 8 * 40


def test_a_transaction_left_open_is_undone_before_the_next(database: ServerDatabase) -> None:
    assert database._writer is not None
    database._writer.execute("BEGIN IMMEDIATE")
    database._writer.execute("DELETE FROM user")
    write_user("a")
    assert names() == ["a"]


class TestTurns:
    def test_who_waited_in_vain_is_out_of_the_line(self) -> None:
        turns = Turns()
        assert turns.acquire(0)
        assert not turns.acquire(0.01)
        assert not turns.pass_on()
        turns.release()
        assert turns.acquire(0)

    def test_lets_one_in_at_a_time(self) -> None:
        turns, inside, most = Turns(), 0, 0

        def come_and_go() -> None:
            nonlocal inside, most
            for _ in range(200):
                if turns.acquire(DEADLINE_SECONDS):
                    inside += 1
                    most = max(most, inside)
                    inside -= 1
                    turns.release()

        with ThreadPoolExecutor(6) as threads:
            for future in [threads.submit(come_and_go) for _ in range(6)]:
                future.result(DEADLINE_SECONDS)
        assert (most, inside) == (1, 0)
