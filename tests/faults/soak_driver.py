"""Starts the server with a gauge, and with leaks where they are named.

`soak_driver.py ORDERS serve ...`, where ORDERS is JSON: `gauge` is the path of a socket, `leaks`
are names in `LEAKS`. Product code stays as it is: its functions are wrapped from outside.
"""

import ctypes
import functools
import gc
import json
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))


class Gauge:
    """Answers each connection with what this process holds, once nothing holds what it need not.

    A signal would not do: the server ends by the first that Python hears of.
    """

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self._serve, name="gauge", daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.sendall(json.dumps(_held()).encode())


def _held() -> dict[str, Any]:
    """Empty what is a cache by design, then count: what stays is held for good."""
    from anymind_lite.database import database

    for connection in list(database.obj._opened):
        _empty_caches(connection)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "bytes": _bytes_in_use(),
        "sqlite_bytes": _bytes_of_sqlite(),
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


def _bytes_of_sqlite() -> int:
    """Return how much of that SQLite has; 0 where it is not a library of its own."""
    try:
        memory_used = ctypes.CDLL("libsqlite3.so.0").sqlite3_memory_used
    except OSError:
        return 0
    memory_used.restype = ctypes.c_int64
    return int(memory_used())


class _Mallinfo2(ctypes.Structure):
    """What glibc's malloc has given out; see mallinfo(3)."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _bytes_in_use() -> int:
    """Return what malloc has given out, without the holes that make the process larger than that.

    Python's objects of up to 512 bytes are not in it; those are the blocks. 0 without glibc 2.33.
    """
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _empty_caches(connection: sqlite3.Connection) -> None:
    """Forget prepared statements, up to 128, and pages of the database, up to 2 MB.

    Each of some sixty threads has a connection: it would take them tens of thousands of requests to
    have seen everything. sqlite3 keeps its statements in an `lru_cache`, and has no name for it.
    """
    for part in gc.get_referents(connection):
        if hasattr(part, "cache_clear"):
            part.cache_clear()
    connection.execute("PRAGMA shrink_memory")


def _after(owner: object, name: str, action: Callable[[], object]) -> None:
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        action()
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


_kept: list[object] = []


def bytes_for_each_request() -> None:
    """A kilobyte stays of each request: a buffer in a list that nobody empties."""
    from flask import Flask

    _after(Flask, "full_dispatch_request", lambda: _kept.append(bytearray(1024)))


def objects_for_each_execution() -> None:
    """Some objects stay of each execution: its row, say, with what is in it."""
    from anymind_lite.services import executions

    _after(executions, "finish_execution", lambda: _kept.append([[n] for n in range(40)]))


def descriptor_for_each_execution() -> None:
    """A descriptor stays open of each execution."""
    from anymind_lite.services import executions

    _after(executions, "finish_execution", lambda: os.open("/dev/null", os.O_RDONLY))


def thread_for_each_build() -> None:
    """A thread stays of each build."""
    from anymind_lite.services import builds

    def begin() -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()

    _after(builds, "finish_build", begin)


def descriptor_of_the_zygote() -> None:
    """A descriptor stays open in the zygote of each execution."""
    from anymind_lite.sandbox.in_server import supervisor

    supervisor._STUB_PATH = Path(__file__).with_name("leaky_stub.py")


LEAKS: dict[str, Callable[[], None]] = {
    leak.__name__: leak
    for leak in (
        bytes_for_each_request,
        objects_for_each_execution,
        descriptor_for_each_execution,
        thread_for_each_build,
        descriptor_of_the_zygote,
    )
}


def start_every_thread() -> None:
    """Start all threads that answer at once: when a busy moment asks for one more is chance."""
    from anymind_lite.cli._http_threads import Threads

    begin: Callable[..., None] = Threads.__init__

    def begin_with_all(self: Threads, *, first: int, most: int) -> None:
        begin(self, first=most, most=most)

    Threads.__init__ = begin_with_all  # type: ignore[method-assign]


def main() -> None:
    """Follow the orders, then be the server's command line."""
    orders = json.loads(sys.argv.pop(1))
    for name in orders["leaks"]:
        LEAKS[name]()
    start_every_thread()
    Gauge(orders["gauge"]).start()
    from anymind_lite.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
