"""Connections: how long each may take for what, and which must go where all are taken.

One thread, which runs the loop, calls everything here but `service`. Once a second it looks at
every connection. Nothing is measured between two looks, so that waiting clients cost next to
nothing.
"""

import contextlib
import errno
import heapq
import logging
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any
from wsgiref.types import WSGIApplication

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer

from anymind_lite.cli._http_answers import AnswerRoom, bytes_in_files
from anymind_lite.cli._http_requests import BodyRoom, JsonErrorTask, Refused, Request, no_room
from anymind_lite.cli._http_threads import Threads
from anymind_lite.database import is_disk_full
from anymind_lite.routes._bodies import BodyRules

logger = logging.getLogger(__name__)

_TOO_SLOW = "The request took too long to arrive"
_DISCARD_BYTES = 64 * 1024
_ACCEPTED_AT_ONCE = 64
_PAUSE_SECONDS = 0.5
_CLOSED_AT_ONCE = 0.02  # of all connections, when there is no room for one more
# accept(2): these stay until something is given up; any other is of the one connection alone.
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# The kernel tells of room once less than this is unsent: without it, an answer to a slow reader
# stands still for as long as the reader takes for a third of a buffer of megabytes.
_UNSENT_IN_KERNEL_BYTES = 128 * 1024
# A file of an answer goes when all of it is read: a long answer lies in several.
_MOST_FILE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Patience:
    """How long a client may take. A body comes at `least_body_rate` bytes a second on average over
    every window; the first judgement is at the end of the first one.
    """

    header_seconds: float = 30
    body_window_seconds: float = 30
    least_body_rate: int = 1024
    idle_seconds: float = 120  # proxies reuse connections; many keep them for a minute
    unread_seconds: float = 60
    linger_seconds: float = 20
    look_seconds: float = 1
    # Where there is no room for more bodies, those that come slower than this are ended.
    body_rate_in_need: int = 64 * 1024
    judged_after_seconds: float = 5
    # What all clients together may leave unread of what was computed for them.
    most_unread_bytes: int = 1024**3


class Stage(StrEnum):
    """What a connection waits for; those named first are given up first."""

    LINGERING = "lingering"  # the client, to read its refusal
    IDLE = "idle"  # the client's next request
    HEADERS = "headers"  # the rest of its headers
    BODY = "body"  # the rest of its body
    UNREAD = "unread"  # the client, to read its answer
    SERVED = "served"  # us


_GIVEN_UP_FIRST = {stage: place for place, stage in enumerate(Stage)}


class Connection(HTTPChannel):
    """One client's connection."""

    error_task_class = JsonErrorTask
    request: Request | None  # while it is not whole
    current_outbuf_count: int  # of the last of waitress's buffers

    def __init__(self, server: "Server", *args: Any, **kwargs: Any) -> None:
        self.parser_class = server.new_request
        self.has_refused = False
        self._is_lingering = False
        self._is_postponed = False
        self._served = 0
        self._state: tuple[Stage, int] = (Stage.HEADERS, 0)
        self._since = time.monotonic()
        self._bytes_before = 0
        self._is_given_up = False
        super().__init__(server, *args, **kwargs)

    def service(self) -> None:
        """Serve one request, on a thread of waitress's own."""
        self._served += 1
        super().service()

    def postpone(self) -> None:
        """Serve the next request only when the last answer is read.

        Requests may come many in a piece. waitress would answer them all, and keep what is not
        read in a file each. (test_pipelined_requests_wait_until_answers_are_read)
        """
        self._is_postponed = True
        self.server.pull_trigger()

    # Deadlines ------------------------------------------------------------------------------------

    def look(self, now: float, patience: Patience) -> Stage | None:
        """End what took too long; returns at what it was, or None if it goes on."""
        self._note_state(now)
        stage = self._state[0]
        if now - self._since < _seconds_for(stage, patience):
            return None
        if stage is Stage.BODY and self._came_fast_enough(now, patience):
            self._since, self._bytes_before = now, self._body_bytes
            return None
        if stage in (Stage.HEADERS, Stage.BODY) and self.request is not None:
            self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW))
        else:
            # Not `will_close`: that waits until the socket can be written to, perhaps for ever.
            self.handle_close()
        return stage

    def _note_state(self, now: float) -> None:
        state = self._current_state()
        if state != self._state:
            self._state, self._since, self._bytes_before = state, now, self._body_bytes

    def _current_state(self) -> tuple[Stage, int]:
        """Return the stage, and a number that changes with whatever counts as progress in it."""
        if self._is_lingering:
            return Stage.LINGERING, 0
        is_ending = self.close_when_flushed or self.will_close
        if self.total_outbufs_len or is_ending or self._is_postponed:
            return Stage.UNREAD, self.total_outbufs_len
        if self.requests:
            return Stage.SERVED, self._served
        request = self.request
        if request is None and self._served:
            return Stage.IDLE, self._served
        if request is None or not request.headers_finished:
            return Stage.HEADERS, self._served
        return Stage.BODY, self._served

    @property
    def _body_bytes(self) -> int:
        return 0 if self.request is None else int(self.request.body_bytes_received)

    def _came_fast_enough(self, now: float, patience: Patience) -> bool:
        came = self._body_bytes - self._bytes_before
        return came >= patience.least_body_rate * (now - self._since)

    def _refuse(self, error: Refused) -> None:
        """Answer a request that is not whole."""
        with self.requests_lock:
            request, self.request = self.request, None
            if request is None:
                return
            request.refuse(error)
            self.requests.append(request)
            self.server.add_task(self)

    @property
    def unread_bytes(self) -> int:
        """How much of its answer is kept; a file that is sent as it is does not count."""
        kept = (one for one in list(self.outbufs) if not isinstance(one, ReadOnlyFileBasedBuffer))
        return sum(len(one) for one in kept)

    @property
    def bytes_in_files(self) -> int:
        """How much its answer takes of the disk."""
        return bytes_in_files(list(self.outbufs))

    # Answering ------------------------------------------------------------------------------------

    def write_soon(self, data: Any) -> int:
        """Keep a piece of an answer until it is read, on a thread of waitress's own."""
        if isinstance(data, ReadOnlyFileBasedBuffer) or not self._goes_to_file(len(data)):
            return int(super().write_soon(data))
        if self.current_outbuf_count >= _MOST_FILE_BYTES:
            self.current_outbuf_count = self.adj.outbuf_high_watermark  # the next begins a file
        with self.server.answer_room.taken(len(data)) as is_taken:
            if not is_taken:
                self._give_up("no_room_for_answers")
            if self._is_given_up:
                raise ClientDisconnected
            return self._write_to_file(data)

    def _goes_to_file(self, count: int) -> bool:
        is_in_file = bool(self.outbufs[-1].overflowed)
        return is_in_file or self.total_outbufs_len + count >= self.adj.outbuf_overflow

    def _write_to_file(self, data: bytes) -> int:
        with self.outbuf_lock:  # until what a full disk left half written is away
            try:
                return int(super().write_soon(data))
            except OSError as exc:
                if not is_disk_full(exc):
                    raise
                self._give_up("disk_full")
                raise ClientDisconnected from exc

    def _flush_some(self, do_close: bool = True) -> bool:
        try:
            return bool(super()._flush_some(do_close))
        except OSError as exc:  # what Python holds of a file is written down before it is read
            if not is_disk_full(exc):
                raise
            self._give_up("disk_full")
            return False

    def _give_up(self, why: str) -> None:
        """End the connection soon, its answer cannot be kept; says so once."""
        if self._is_given_up:
            return
        self._is_given_up = True
        logger.error("event=answer_not_kept reason=%s", why)
        with self.outbuf_lock:
            self._forget_answer()
            self.outbufs = [OverflowableBuffer(self.adj.outbuf_overflow)]
            self.total_outbufs_len = 0
        self.server.trigger.pull_trigger(self.handle_close)

    def _forget_answer(self) -> None:
        for one in self.outbufs:
            with contextlib.suppress(OSError):  # what a full disk did not take is written again
                one.close()

    # Giving way -----------------------------------------------------------------------------------

    def worth(self, now: float) -> tuple[int, float] | None:
        """Return what to sort by, the least worth first; None where we are at work for it."""
        self._note_state(now)
        stage = self._state[0]
        if stage is Stage.SERVED:
            return None
        place = _GIVEN_UP_FIRST[stage]
        if stage is Stage.BODY:
            return place, (self._body_bytes - self._bytes_before) / (now - self._since + 1)
        return place, self._since

    def unread_since(self) -> float:
        """Return when the client last read of its answer, or `inf` where none waits."""
        return self._since if self._state[0] is Stage.UNREAD else inf

    def give_up_slow_body(self, now: float, patience: Patience) -> None:
        """End a request whose body takes of the common room and comes slowly."""
        self._note_state(now)
        if self._state[0] is not Stage.BODY or self.request is None or not self.request.is_in_file:
            return
        seconds = now - self._since
        came = self._body_bytes - self._bytes_before
        if seconds >= patience.judged_after_seconds and came < patience.body_rate_in_need * seconds:
            self._refuse(Refused.by(no_room()))

    # Closing --------------------------------------------------------------------------------------

    def handle_write(self) -> None:
        """Send; after a refusal, tell the end but listen on.

        A socket that is closed before all was read resets the connection, and the client, still
        sending, may never see the answer (RFC 9112, section 9.6).
        """
        if self.has_refused and self.close_when_flushed and not self.total_outbufs_len:
            self._linger()
            return
        super().handle_write()
        if self._is_postponed and self.connected and not self.total_outbufs_len:
            self._is_postponed = False
            self.server.add_task(self)

    def writable(self) -> bool:
        """Tell whether anything waits until the client can be written to."""
        return self._is_postponed or bool(super().writable())

    def _linger(self) -> None:
        self.close_when_flushed = False
        self._is_lingering = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def readable(self) -> bool:
        """Tell whether anything is wanted of the client."""
        return self._is_lingering or bool(super().readable())

    def handle_read(self) -> None:
        """Read; what follows a refused request is thrown away."""
        try:
            data = self.recv(_DISCARD_BYTES if self._is_lingering else self.adj.recv_bytes)
        except BlockingIOError:
            return  # poll(2) may be mistaken
        except OSError:
            self.handle_close()
            return
        if data and not self._is_lingering:
            self.received(data)

    def handle_close(self) -> None:
        """Close, and forget a request that was not whole."""
        with self.outbuf_lock:
            self._forget_answer()
        super().handle_close()
        if self.request is not None:
            self.request.close()
        if self._is_postponed:
            for request in self.requests:
                request.close()


def _seconds_for(stage: Stage, patience: Patience) -> float:
    return {
        Stage.LINGERING: patience.linger_seconds,
        Stage.IDLE: patience.idle_seconds,
        Stage.HEADERS: patience.header_seconds,
        Stage.BODY: patience.body_window_seconds,
        Stage.UNREAD: patience.unread_seconds,
        Stage.SERVED: inf,
    }[stage]


class Server(TcpWSGIServer):
    """waitress's server: accepts, and makes room where there is none."""

    channel_class = Connection

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        adjustments: Adjustments,
        *,
        threads: Threads,
        connections: dict[int, Any],
        patience: Patience,
        rules: BodyRules,
        room: BodyRoom,
        reserve_bytes: int,
        headers_for: Callable[[str | None], dict[str, str]],
    ) -> None:
        self.headers_for = headers_for
        self.room = room
        room.make_room = self._end_slow_bodies
        self.new_request = partial(Request, rules=rules, room=room)
        self.answer_room = AnswerRoom(reserve_bytes=reserve_bytes)
        self.answer_room.kept = self._bytes_in_files
        self.answer_room.make_room = self._look_soon
        self._patience = patience
        self._next_look = 0.0
        self._accept_at = 0.0
        self._has_knock = False
        self._ended: Counter[str] = Counter()
        self._knocks = select.poll()
        self._knocks.register(listener, select.POLLIN)
        where = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            app,
            connections,
            _sock=listener,
            dispatcher=threads,
            adj=adjustments,
            bind_socket=False,
            sockinfo=where,
        )

    def run(self) -> None:
        """Serve until every connection and the trigger are gone."""
        while self._map:
            wasyncore.poll2(self._patience.look_seconds, self._map)
            # Here, and not while events are handed out: one of a connection that is closed would
            # reach the next that gets its descriptor. (test_newcomers_survive_those_they_replace)
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + self._patience.look_seconds
                self._look(now)
            if self._has_knock:
                self._has_knock = False
                self._accept_waiting()

    def readable(self) -> bool:
        """Tell whether to listen for new connections."""
        # waitress's own also looks at connections, but by the wall clock: a step of that would
        # close them all, or none ever after.
        return bool(self.accepting) and time.monotonic() >= self._accept_at

    def handle_accept(self) -> None:
        """Note that somebody waits."""
        self._has_knock = True

    def _look(self, now: float) -> None:
        for connection in list(self.active_channels.values()):
            stage = connection.look(now, self._patience)
            if stage is not None:
                self._ended[stage] += 1
        self._bound_unread_answers()
        if self._ended:
            ended = " ".join(f"{why}={count}" for why, count in sorted(self._ended.items()))
            logger.info("event=connections_ended %s", ended)
            self._ended.clear()

    def _look_soon(self) -> None:
        """Have the loop's thread look now; any thread may call this."""
        self._next_look = 0.0
        self.pull_trigger()

    def _bytes_in_files(self) -> int:
        return sum(one.bytes_in_files for one in list(self.active_channels.values()))

    def _bound_unread_answers(self) -> None:
        """End those that have read nothing for longest where too much is kept of all answers."""
        kept = {one: one.unread_bytes for one in self.active_channels.values()}
        self._end_unread(kept, sum(kept.values()) - self._patience.most_unread_bytes)
        in_files = {one: one.bytes_in_files for one in self.active_channels.values()}
        self._end_unread(in_files, self.answer_room.excess(sum(in_files.values())))
        self.answer_room.tell_change()

    def _end_unread(self, kept: dict[Connection, int], excess: float) -> None:
        if excess <= 0:
            return
        for connection in sorted(kept, key=Connection.unread_since):
            if excess > 0 and kept[connection] and connection.unread_since() < inf:
                connection.handle_close()
                self._ended["unread_in_need"] += 1
                excess -= kept[connection]

    def add_task(self, task: Connection) -> None:
        """Serve a connection's next request, at once or when the last answer is read."""
        if task.total_outbufs_len:
            task.postpone()
        else:
            super().add_task(task)

    def _accept_waiting(self) -> None:
        """Accept those that wait, if need be in place of others."""
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self.accepting or not self._knocks.poll(0):
                return  # nobody is closed for the sake of nobody
            if len(self.active_channels) >= self.adj.connection_limit and not self._make_room():
                self._pause()
                return
            try:
                accepted = self.accept()
            except OSError as exc:
                self._end_accepting(exc)
                return
            if accepted is not None:
                self._open(*accepted)

    def _open(self, client: socket.socket, address: Any) -> None:
        try:
            self.set_socket_options(client)
            self.channel_class(self, client, self.fix_addr(address), self.adj, map=self._map)
        except OSError:
            client.close()  # it is gone already

    def set_socket_options(self, conn: socket.socket) -> None:
        """Set what waitress sets, and how the kernel tells of slow readers."""
        super().set_socket_options(conn)
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            conn.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_IN_KERNEL_BYTES)

    def _end_accepting(self, error: OSError) -> None:
        """Come back later if something has run out: the listener would call again at once."""
        if error.errno in _NO_RESOURCES:
            logger.warning("event=cannot_accept error=%s", error.strerror)
            self._make_room()
            self._pause()

    def _end_slow_bodies(self, wanting: Request) -> None:
        now = time.monotonic()
        for connection in list(self.active_channels.values()):
            if connection.request is not wanting:
                connection.give_up_slow_body(now, self._patience)

    def _pause(self) -> None:
        self._accept_at = time.monotonic() + _PAUSE_SECONDS

    def _make_room(self) -> bool:
        """Close some of the connections that are worth least; tells whether there were any."""
        now = time.monotonic()
        spared = [
            (worth, id(connection), connection)
            for connection in self.active_channels.values()
            if (worth := connection.worth(now)) is not None
        ]
        count = max(1, int(self.adj.connection_limit * _CLOSED_AT_ONCE))
        for _, _, connection in heapq.nsmallest(count, spared):
            connection.handle_close()
            self._ended["for_room"] += 1
        return bool(spared)
