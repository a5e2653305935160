"""A server in the foreground: started, announced, ended by a signal."""

import contextlib
import gc
import logging
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from anymind_lite.backend import Backend
from anymind_lite.config import Settings

if TYPE_CHECKING:
    from anymind_lite.cli._http_server import HttpServer

logger = logging.getLogger(__name__)

_ENOUGH_DESCRIPTORS = 10_240  # where the hard limit is none; macOS takes no more (OPEN_MAX)


def run_server(settings: Settings, act: Callable[["HttpServer", Backend], bool]) -> None:
    """Start a server, call `act` when it answers, and serve on if `act` returns True.

    SIGTERM or Ctrl-C ends it in order: no new executions, running ones are waited for, then killed.
    A second signal ends the process at once; the zygote kills what runs when the server is gone.
    Raises StartupError.
    """
    _raise_descriptor_limit()
    os.umask(0o077)  # whatever is written is for this user alone, wherever settings put it
    ended = threading.Event()
    backend = Backend(settings)
    backend.start(meanwhile=_load_http)
    # waitress keeps large request bodies in temporary files: on the data's disk, not in a small
    # /tmp that others need too.
    tempfile.tempdir = str(settings.run_path)
    try:
        server = _make_http_server(backend)
        _end_on_signals(ended)
        try:
            server.start()
            gc.freeze()  # what there is now stays: no request waits while all of it is looked at
            gc.enable()
            if act(server, backend):
                ended.wait()
                _drain(server, backend)
        finally:
            server.stop()
    finally:
        backend.stop()


def _load_http() -> None:
    """Load the whole of HTTP while another process is at work."""
    from anymind_lite import app  # noqa: F401
    from anymind_lite.cli import _http_server  # noqa: F401


def _make_http_server(backend: Backend) -> "HttpServer":
    from anymind_lite.app import create_app
    from anymind_lite.cli._http_server import HttpServer

    return HttpServer(create_app(backend), backend.settings)


def _raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: the soft limit is often 1,024, or 256."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(OSError, ValueError):  # fewer connections, then
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _drain(server: "HttpServer", backend: Backend) -> None:
    server.stop_accepting()
    seconds = backend.settings.shutdown_grace_seconds
    logger.info("event=stopping busy=%d grace_seconds=%g", backend.executor.slots.busy, seconds)
    if not backend.drain(seconds):
        logger.warning("event=executions_killed")
        backend.executor.interrupt()
        backend.drain(seconds)


def _end_on_signals(ended: threading.Event) -> None:
    """Set `ended` at the first SIGTERM or SIGINT, end the process at the second.

    A thread hears them, over the wakeup descriptor. Python runs handlers on the main thread, which
    sleeps through one that comes just before it begins to wait for a lock.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def hear() -> None:
        os.read(reader, 1)
        ended.set()
        os._exit(128 + os.read(reader, 1)[0])

    threading.Thread(target=hear, name="signals", daemon=True).start()
