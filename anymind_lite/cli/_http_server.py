"""waitress, as this product needs it: its own socket, patience with bounds, an orderly end."""

import errno
import http.client
import resource
import socket
import threading
import time
from typing import Any
from wsgiref.types import WSGIApplication

from waitress import wasyncore
from waitress.adjustments import Adjustments

from anymind_lite.app import headers_for
from anymind_lite.cli._http_connections import Patience, Server
from anymind_lite.cli._http_requests import IN_MEMORY_BYTES, BodyRoom
from anymind_lite.cli._http_threads import Threads
from anymind_lite.config import Settings
from anymind_lite.errors import StartupError
from anymind_lite.routes._bodies import BodyRules
from anymind_lite.services.executor import LONG_POLLS

_MEGABYTE = 1024 * 1024
# Beside those that execute, or wait for a slot or for an end: health, login and cancel always find
# one.
_SPARE_THREADS = 16
_MOST_CONNECTIONS = 1000
_LEAST_CONNECTIONS = 16
_DESCRIPTORS_PER_CONNECTION = 2  # a large body, or an answer that is not read, is a file
_DESCRIPTORS_PER_THREAD = 2  # the database and its log
_RESERVED_DESCRIPTORS = 100  # running agents, builds, the reader, logs
# waitress keeps what a client does not read in a file. Over this it stops the thread that answers,
# and a few slow readers of long lists would take them all. (test_slow_readers_hold_no_thread)
_MOST_UNSENT_BYTES = 4 * 1024 * _MEGABYTE
_ANSWER_SECONDS = 10.0
_FLUSH_SECONDS = 2.0
_POLL_SECONDS = 0.02
_MOST_HEADER_BYTES = 64 * 1024
# How many bodies of the largest size may be on the disk at once.
_LARGEST_BODIES = 4


class HttpServer:
    """Serves an application on a thread of its own between `start` and `stop`."""

    def __init__(
        self, app: WSGIApplication, settings: Settings, *, patience: Patience | None = None
    ) -> None:
        self._socket = _bind(settings.server_host, settings.server_port)
        self._map: dict[int, Any] = {}
        rules = BodyRules.of(settings)
        adjustments = _adjustments(settings, rules)
        self._server = Server(
            app,
            self._socket,
            adjustments,
            threads=Threads(first=_SPARE_THREADS, most=adjustments.threads),
            connections=self._map,
            patience=patience or Patience(),
            rules=rules,
            room=BodyRoom(_LARGEST_BODIES * rules.largest_bytes),
            reserve_bytes=settings.disk_reserve_bytes,
            headers_for=headers_for(settings.cors_origins),
        )
        self._thread = threading.Thread(target=self._server.run, name="http")

    @property
    def port(self) -> int:
        """The port that is bound, also when any free one was asked for."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The address to type into a browser of this machine."""
        host = self._socket.getsockname()[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Serve; returns when the server has answered a request. Raises StartupError."""
        self._thread.start()
        host = self.url.removeprefix("http://").rpartition(":")[0].strip("[]")
        connection = http.client.HTTPConnection(host, self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                raise StartupError("The server started but is not healthy; see its log.")
        except OSError as exc:
            raise StartupError(f"The server does not answer: {exc}") from exc
        finally:
            connection.close()

    def stop_accepting(self) -> None:
        """Take no new connection; those that are open are served on."""
        self._in_loop(self._close_listener)

    def _close_listener(self) -> None:
        self._server.accepting = False
        self._server.del_channel()
        self._socket.close()

    def stop(self) -> None:
        """Send what is ready to be sent, then close every connection and end the threads."""
        if not self._thread.is_alive():
            self._server.close()
            return
        # The loop goes last: a thread that ends a request still has to wake it.
        self._server.task_dispatcher.shutdown()
        self._flush()
        self._in_loop(lambda: wasyncore.close_all(self._map))
        self._thread.join()

    def _flush(self) -> None:
        deadline = time.monotonic() + _FLUSH_SECONDS
        while self._has_unsent_answers() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _has_unsent_answers(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.total_outbufs_len or channel.requests for channel in channels)

    def _in_loop(self, action: Any) -> None:
        """Have the loop's thread do something, soon."""
        try:
            self._server.trigger.pull_trigger(action)
        except OSError:
            # Noted first, then the loop is woken: one that was awake has done it by then, and what
            # would have woken it may be closed.
            pass


def _adjustments(settings: Settings, rules: BodyRules) -> Adjustments:
    executions = settings.worker_concurrency + settings.execution_queue_size
    threads = executions + LONG_POLLS + _SPARE_THREADS
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Adjustments(
        threads=threads,
        # Executions that nobody waits for have threads of their own.
        connection_limit=connection_limit(open_files, threads + executions),
        # The rules come first for all but absurd bodies.
        max_request_body_size=rules.largest_bytes + _MEGABYTE,
        max_request_header_size=_MOST_HEADER_BYTES,
        inbuf_overflow=IN_MEMORY_BYTES,
        outbuf_high_watermark=_MOST_UNSENT_BYTES,
        asyncore_use_poll=True,  # select(2) ends at descriptor 1,024
        clear_untrusted_proxy_headers=True,
        ident=None,
    )


def connection_limit(open_files: int, threads: int) -> int:
    """Return how many connections may be open where a process may open so many files.

    Past the last descriptor nothing works any more: no connection is accepted, no row is written.
    """
    if open_files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    free = open_files - _RESERVED_DESCRIPTORS - _DESCRIPTORS_PER_THREAD * threads
    return max(_LEAST_CONNECTIONS, min(_MOST_CONNECTIONS, free // _DESCRIPTORS_PER_CONNECTION))


def is_port_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there now."""
    try:
        _bind(host, port).close()
    except StartupError:
        return False
    return True


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_MOST_CONNECTIONS)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise StartupError(
                f"Port {port} on {host} is taken. Stop what uses it, or choose another: --port 8001"
            ) from exc
        raise StartupError(f"Cannot listen on {host} port {port}: {exc.strerror}") from exc
