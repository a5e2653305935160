"""What agents do every day, each a function that returns something true."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARY = (
    *("argparse", "array", "ast", "asyncio", "base64", "bisect", "bz2", "calendar", "cmath"),
    *("collections", "colorsys", "concurrent.futures", "configparser", "contextlib", "copy"),
    *("csv", "ctypes", "dataclasses", "datetime", "decimal", "difflib", "email.message", "enum"),
    *("fractions", "functools", "getpass", "glob", "gzip", "hashlib", "heapq", "hmac"),
    *("html.parser", "http.client", "http.server", "imaplib", "inspect", "io", "ipaddress"),
    *("itertools", "json", "locale", "logging.config", "lzma", "mimetypes", "multiprocessing"),
    *("multiprocessing.pool", "numbers", "operator", "os", "pathlib", "pickle", "platform"),
    *("plistlib", "pprint", "queue", "random", "re", "secrets", "selectors", "shelve", "shlex"),
    *("shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "statistics"),
    *("string", "struct", "subprocess", "sysconfig", "tarfile", "tempfile", "textwrap"),
    *("threading", "time", "timeit", "tomllib", "traceback", "typing", "unicodedata"),
    *("unittest.mock", "urllib.request", "uuid", "venv", "warnings", "wave", "weakref"),
    *("xml.dom.minidom", "xml.etree.ElementTree", "xmlrpc.client", "zipfile", "zlib", "zoneinfo"),
)


def imports(_: Path) -> Any:
    import importlib

    return [importlib.import_module(name) for name in LIBRARY]


def threads(_: Path) -> Any:
    import threading

    done: list[int] = []
    started = [threading.Thread(target=done.append, args=(n,)) for n in range(20)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sorted(done) == list(range(20))


def thread_pool(_: Path) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(abs, (-1, -2))) == [1, 2]


def thread_of_c_knows_its_stack(_: Path) -> Any:
    """pthread_getattr_np(3), which NumPy's and Rust's threads call, asks for the CPUs."""
    import ctypes
    import threading

    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    results: list[int] = []

    def ask() -> None:
        attributes = ctypes.create_string_buffer(256)
        results.append(libc.pthread_getattr_np(ctypes.c_ulong(libc.pthread_self()), attributes))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return results == [0]


def asyncio_loop(_: Path) -> Any:
    import asyncio

    async def work() -> int:
        return sum(await asyncio.gather(*(asyncio.to_thread(int, str(n)) for n in range(5))))

    return asyncio.run(work()) == 10


def asyncio_pipes(_: Path) -> Any:
    import asyncio
    import socket

    async def work() -> bytes:
        left, right = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=left)
        right.sendall(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        right.close()
        return line

    return asyncio.run(work()) == b"hello\n"


def temporary_files(scratch: Path) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(dir=scratch) as name, tempfile.TemporaryFile(dir=name) as file:
        file.write(b"x")
        Path(name, "deep").mkdir()
        Path(name, "deep", "file").write_text("text", encoding="utf-8")
    with tempfile.NamedTemporaryFile(dir=scratch) as file:
        return not Path(name).exists() and Path(file.name).exists()


def copies_of_files(scratch: Path) -> Any:
    import shutil

    source, folder = scratch / "source", scratch / "folder"
    source.write_text("text", encoding="utf-8")
    folder.mkdir()
    shutil.copy(source, folder / "one")
    shutil.copy2(source, folder / "two")
    shutil.copytree(folder, scratch / "again")
    shutil.move(scratch / "again" / "two", scratch / "three")
    source.touch()
    source.chmod(0o600)
    archive = shutil.make_archive(str(scratch / "all"), "zip", folder)
    shutil.unpack_archive(archive, scratch / "unpacked")
    names = sorted(path.name for path in (scratch / "unpacked").iterdir())
    shutil.rmtree(folder)
    return names == ["one", "two"] and (scratch / "three").read_text(encoding="utf-8") == "text"


def truncated_files(scratch: Path) -> Any:
    path = scratch / "long"
    path.write_bytes(b"long text")
    with path.open("r+b") as file:
        file.truncate(4)
    cut = path.read_bytes()
    path.write_bytes(b"new")
    return (cut, path.read_bytes()) == (b"long", b"new")


def memory_map(scratch: Path) -> Any:
    import mmap

    path = scratch / "mapped"
    path.write_bytes(b"abcd")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[0:1] = b"x"
    with mmap.mmap(-1, 4096) as view:
        view[:3] = b"abc"
    return path.read_bytes() == b"xbcd"


def sqlite(scratch: Path) -> Any:
    import sqlite3
    from contextlib import closing

    rows = []
    for name, mode in ((":memory:", "memory"), (str(scratch / "data"), "wal")):
        with closing(sqlite3.connect(name)) as database:
            database.execute(f"PRAGMA journal_mode={mode}")
            database.execute("CREATE TABLE t (a)")
            database.execute("INSERT INTO t VALUES (1)")
            database.commit()
            rows += database.execute("SELECT a FROM t").fetchall()
    return rows == [(1,), (1,)]


def time_zones(_: Path) -> Any:
    import datetime
    import time
    import zoneinfo

    if not zoneinfo.available_timezones():
        return True  # this machine has none, outside as well
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    return datetime.datetime(2024, 7, 1, tzinfo=zone).utcoffset() and time.localtime()


def times(_: Path) -> Any:
    import time

    time.thread_time()
    time.process_time()
    time.clock_getres(time.CLOCK_MONOTONIC)
    time.sleep(0)
    return time.monotonic() and time.time()


def numbers(_: Path) -> Any:
    import decimal
    import random
    import secrets
    import statistics
    import uuid

    random.seed()
    uuid.uuid1()
    uuid.uuid4()
    secrets.token_hex()
    return decimal.Decimal(2).sqrt() and statistics.mean([1, random.random()])


def hashes(_: Path) -> Any:
    import hashlib
    import hmac

    hmac.new(b"k", b"m", "sha512").hexdigest()
    return hashlib.scrypt(b"p", salt=b"s", n=2, r=1, p=1) and hashlib.sha3_256(b"x").hexdigest()


def tls_contexts(_: Path) -> Any:
    import ssl

    return ssl.create_default_context() is not None


def types_of_files(_: Path) -> Any:
    import mimetypes

    return mimetypes.guess_type("a.html")[0] == "text/html"


def the_machine(_: Path) -> Any:
    import os
    import platform
    import resource
    import socket

    os.nice(0)
    os.sched_getaffinity(0)
    os.getpgid(0)
    os.getpgid(os.getpid())
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    platform.platform()
    return os.cpu_count() and socket.gethostname() is not None


def callbacks_from_c(_: Path) -> Any:
    import ctypes

    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    calls: list[int] = []

    def note(*_: Any) -> int:
        calls.append(1)
        return 0

    callback = compare(note)
    ctypes.CDLL(None).qsort((ctypes.c_int * 3)(3, 1, 2), 3, 4, callback)
    return calls


def recursion(_: Path) -> Any:
    def depth(n: int) -> int:
        return n and 1 + depth(n - 1)

    return depth(200) == 200


def signals_to_oneself(_: Path) -> Any:
    import os
    import signal
    import threading

    caught: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return len(caught) == 3


EVERYDAY: dict[str, Callable[[Path], Any]] = {
    function.__name__: function
    for function in (
        *(imports, threads, thread_pool, thread_of_c_knows_its_stack, asyncio_loop),
        *(asyncio_pipes, temporary_files, copies_of_files, truncated_files, memory_map, sqlite),
        *(time_zones, times, numbers, hashes, tls_contexts, types_of_files, the_machine),
        *(callbacks_from_c, recursion, signals_to_oneself),
    )
}
