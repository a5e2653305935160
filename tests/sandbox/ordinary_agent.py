"""An agent of ordinary Python, sent into the sandbox as it stands: one row, one function.

Each function of WORKS returns something true. Those of REFUSED are told by what happens instead.
All import what they use when they are called: an agent that cannot be imported tells nothing. The
rows that single layers are tested with come along as `ordinary_python`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Row = Callable[[], Any]

WORKS: dict[str, Row] = {}

# A window, a web page, a poem.
NOT_FOR_AGENTS = {"antigravity", "idlelib", "this", "tkinter", "turtle", "turtledemo"}


class Refusal(NamedTuple):
    """What docs/sandbox.md says of a row: `alone` for a run that may start no processes."""

    what: str
    alone: str
    with_processes: str


REFUSED: dict[str, tuple[Refusal, Row]] = {}


def works(row: Row) -> Row:
    WORKS[row.__name__] = row
    return row


def refused(what: str, alone: str, with_processes: str = "") -> Callable[[Row], Row]:
    """Register what is refused; it is refused alike with processes where nothing else is said."""

    def register(row: Row) -> Row:
        REFUSED[row.__name__] = Refusal(what, alone, with_processes or alone), row
        return row

    return register


def what_happens(name: str) -> str:
    """Try one refused row; return what it raised, or what it returned as text."""
    _refusal, row = REFUSED[name]
    try:
        return str(row() or "works")
    except Exception as exc:
        return f"`{type(exc).__name__}`"


def missing_modules() -> list[str]:
    """Import the whole standard library; return what does not let itself be imported."""
    import importlib
    import sys
    import warnings

    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some leave the library one day
        for name in sorted(sys.stdlib_module_names - NOT_FOR_AGENTS):
            try:
                importlib.import_module(name)
            except ImportError:
                missing.append(name)
    return missing


# Code that waits ---------------------------------------------------------------------------------


@works
def many_threads_with_locals() -> Any:
    import queue
    import threading

    local, done = threading.local(), queue.Queue[int]()
    barrier = threading.Barrier(16, timeout=20)

    def work(number: int) -> None:
        local.number = number
        barrier.wait()
        done.put(local.number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done.get() for _ in threads) == list(range(16))


@works
def asyncio_timeouts_and_queues() -> Any:
    import asyncio

    async def work() -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.put(1))
            first = group.create_task(queue.get())
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return first.result() == 1
        return False

    return asyncio.run(work())


@works
def asyncio_hears_signals() -> Any:
    import asyncio
    import signal

    async def work() -> bool:
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.wait_for(heard.wait(), 20)
        return True

    return asyncio.run(work())


@works
def context_variables() -> Any:
    import asyncio
    import contextvars

    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    async def be(name: str) -> str:
        who.set(name)
        await asyncio.sleep(0)
        return await asyncio.to_thread(who.get)

    async def work() -> list[str]:
        return list(await asyncio.gather(be("a"), be("b")))

    return (asyncio.run(work()), who.get()) == (["a", "b"], "nobody")


@works
def alarms() -> Any:
    import signal

    heard: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not heard:
        signal.pause()
    signal.alarm(1)
    return signal.alarm(0) == 1


@works
def schedules() -> Any:
    import sched
    import threading

    rang = threading.Event()
    threading.Timer(0.01, rang.set).start()
    done: list[int] = []
    scheduler = sched.scheduler()
    scheduler.enter(0.01, 1, done.append, (1,))
    scheduler.run()
    return rang.wait(20) and done == [1]


# Files -------------------------------------------------------------------------------------------


@works
def every_kind_of_temporary_file() -> Any:
    import os
    import tempfile

    handle, name = tempfile.mkstemp(suffix=".txt")
    os.close(handle)
    folder = tempfile.mkdtemp()
    with (
        tempfile.TemporaryFile() as plain,
        tempfile.NamedTemporaryFile("w+") as named,
        tempfile.SpooledTemporaryFile(max_size=10) as spooled,
    ):
        for file in (plain, spooled):
            file.write(b"more than ten bytes")
            file.seek(0)
        named.write("text")
        found = plain.read() == spooled.read() and os.path.exists(named.name)
    os.remove(name)
    os.rmdir(folder)
    return found and tempfile.gettempdir() == os.getcwd() == os.path.expanduser("~")


@works
def paths() -> Any:
    import glob
    import os
    from pathlib import Path

    folder = Path("a", "b")
    folder.mkdir(parents=True)
    (folder / "one.txt").write_text("Grüße", encoding="utf-8")
    (folder / "one.txt").rename(folder / "two.txt")
    (folder / "link").symlink_to("two.txt")
    os.link(folder / "two.txt", folder / "hard")
    names = sorted(path.name for path in Path().rglob("*") if path.is_file())
    found = glob.glob("a/**/*.txt", recursive=True) == ["a/b/two.txt"]
    walked = [len(files) for _folder, _folders, files in os.walk("a")]
    return found and names == ["hard", "link", "two.txt"] and walked == [0, 3]


@works
def a_large_file_in_pieces() -> Any:
    with open("large", "wb") as file:
        for _ in range(20):
            file.write(b"x" * 1_000_000)
    with open("large", "rb") as file:
        return sum(map(len, iter(lambda: file.read(65_536), b""))) == 20_000_000


@works
def full_text_search() -> Any:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect("notes.db", timeout=5)) as database:
        database.execute("PRAGMA journal_mode=wal")
        database.executescript("CREATE TABLE t (a); CREATE INDEX i ON t (a);")
        with database:
            database.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(1000)))
        with closing(sqlite3.connect("notes.db")) as reader:
            (count,) = reader.execute("SELECT count(*) FROM t WHERE a > 500").fetchone()
        with closing(sqlite3.connect("copy.db")) as copy:
            database.backup(copy)
        database.execute("VACUUM")
    return count == 499


@works
def shelves() -> Any:
    import shelve

    with shelve.open("shelf") as shelf:
        shelf["a"] = [1, 2]
    with shelve.open("shelf", "r") as shelf:
        return shelf["a"] == [1, 2]


@works
def archives() -> Any:
    import io
    import tarfile
    import zipfile
    from pathlib import Path

    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("folder/a.txt", "text")
    with zipfile.ZipFile("a.zip") as archive:
        archive.extractall("unzipped")
    with tarfile.open("a.tar.xz", "w:xz") as tar:
        member = tarfile.TarInfo("folder/a.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"text"))
    with tarfile.open("a.tar.xz") as tar:
        tar.extractall("untarred")
    texts = [Path(name, "folder/a.txt").read_text("utf-8") for name in ("unzipped", "untarred")]
    return texts == ["text", "text"]


@works
def compression() -> Any:
    import bz2
    import gzip
    import lzma
    import zlib

    data = b"data" * 10_000
    for module in (bz2, gzip, lzma, zlib):
        packed = module.compress(data)
        if len(packed) > 1000 or module.decompress(packed) != data:
            return False
    return True


# Data --------------------------------------------------------------------------------------------


@works
def texts_of_every_format() -> Any:
    import configparser
    import csv
    import html
    import io
    import json
    import plistlib
    import re
    import tomllib
    import urllib.parse
    import xml.etree.ElementTree as ElementTree
    from email.message import EmailMessage
    from email.parser import Parser

    rows = list(csv.DictReader(io.StringIO('a,b\n1,"x,y"\n')))
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message.set_content("text")
    config = configparser.ConfigParser()
    config.read_string("[a]\nb = 1\n")
    return (
        rows == [{"a": "1", "b": "x,y"}]
        and json.loads(json.dumps({"a": [1.5, None, "ü"]}))["a"][2] == "ü"
        and re.findall(r"(?<=\d)[a-z]+", "1ab 2cd") == ["ab", "cd"]
        and tomllib.loads("a = 1")["a"] == 1
        and config["a"]["b"] == "1"
        and plistlib.loads(plistlib.dumps({"a": 1})) == {"a": 1}
        and urllib.parse.urlsplit("https://a.b/c?d=e#f").query == "d=e"
        and html.unescape(html.escape("<&>")) == "<&>"
        and ElementTree.fromstring("<a><b>1</b></a>").findtext("b") == "1"
        and Parser().parsestr(message.as_string())["Subject"] is not None
    )


@works
def binary_data() -> Any:
    import array
    import base64
    import ctypes
    import pickle
    import struct

    class Point(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))

    numbers = array.array("d", [1.0, 2.5])
    return (
        pickle.loads(pickle.dumps({"a": (1, {2}, 3.5j)}, protocol=5))["a"][2] == 3.5j
        and struct.unpack("<hI", struct.pack("<hI", -2, 7)) == (-2, 7)
        and array.array("d", numbers.tobytes()) == numbers
        and base64.b85decode(base64.b85encode(b"abc")) == b"abc"
        and Point(1, 2.5).y == 2.5
    )


@works
def c_library() -> Any:
    import ctypes
    import ctypes.util

    libc = ctypes.CDLL(None, use_errno=True)
    libc.strlen.argtypes = [ctypes.c_char_p]
    return libc.strlen(b"four") == 4


@works
def every_hash() -> Any:
    import hashlib
    import hmac

    for name in sorted(hashlib.algorithms_guaranteed):
        digest = hashlib.new(name, b"x")
        if not (digest.hexdigest(8) if name.startswith("shake") else digest.hexdigest()):  # type: ignore[call-arg]
            return False
    return hashlib.pbkdf2_hmac("sha256", b"p", b"s", 1000) and hmac.compare_digest("a", "a")


@works
def chance() -> Any:
    import os
    import random
    import secrets
    import uuid

    drawn = {secrets.token_hex(), uuid.uuid4().hex, uuid.uuid1().hex, os.urandom(16).hex()}
    return len(drawn) == 4 and 0 <= random.random() < 1 and random.SystemRandom().choice([1])


@works
def mathematics() -> Any:
    import cmath
    import decimal
    import fractions
    import math
    import statistics

    with decimal.localcontext() as context:
        context.prec = 50
        long = str(decimal.Decimal(2).sqrt())
    return (
        len(long) == 51
        and fractions.Fraction("1/3") * 3 == 1
        and statistics.linear_regression([1, 2, 3], [2, 4, 6]).slope == 2
        and math.isclose(abs(cmath.exp(1j)), 1)
        and len(str(math.factorial(1000))) == 2568
    )


@works
def dates_and_zones() -> Any:
    import calendar
    import datetime
    import time
    import zoneinfo

    now = datetime.datetime.now(datetime.UTC)
    if zoneinfo.available_timezones():  # a machine without any is to be had
        berlin = datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
        if berlin.utcoffset() != datetime.timedelta(hours=2):
            return False
    local = now.astimezone()
    return local == now and time.strftime("%Y", time.gmtime(0)) == "1970" and calendar.isleap(2024)


@works
def languages() -> Any:
    import gettext
    import locale
    import unicodedata

    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    composed = unicodedata.normalize("NFC", "u\u0308")
    return (locale.getencoding().lower(), gettext.gettext("x"), composed) == ("utf-8", "x", "ü")


# The program itself ------------------------------------------------------------------------------


@works
def deep_recursion() -> Any:
    import sys

    def depth(n: int) -> int:
        return n and 1 + depth(n - 1)

    sys.setrecursionlimit(10_000)
    return depth(9_000) == 9_000


@works
def classes_and_types() -> Any:
    import abc
    import dataclasses
    import enum
    import functools
    import graphlib
    import typing

    @dataclasses.dataclass(order=True, slots=True)
    class Point:
        x: int
        y: int = 0

    class Colour(enum.StrEnum):
        RED = enum.auto()

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self) -> float: ...

    order = list(graphlib.TopologicalSorter({"b": {"a"}}).static_order())
    hints = typing.get_type_hints(Point)
    cached = functools.cache(lambda n: n + 1)
    return (
        Point(1) < Point(2)
        and str(Colour.RED) == "red"
        and hints["x"] is int
        and cached(1) == len(order)
    )


@works
def memory_and_its_collector() -> Any:
    import gc
    import tracemalloc
    import weakref

    class Node:
        me: Any

    node = Node()
    node.me = node
    gone = weakref.ref(node)
    tracemalloc.start()
    del node
    gc.collect()
    return gc.isenabled() and gone() is None and tracemalloc.get_traced_memory()


@works
def looking_at_oneself() -> Any:
    import faulthandler
    import inspect
    import io
    import logging
    import traceback
    import warnings

    stream = io.StringIO()
    logging.basicConfig(stream=stream, level="INFO", force=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    try:
        raise ValueError("lost")
    except ValueError:
        logging.exception("told")
        text = traceback.format_exc()
    faulthandler.enable()
    source = inspect.getsource(looking_at_oneself)
    return "def looking_at_oneself" in source and caught and "lost" in text + stream.getvalue()


@works
def own_package_data() -> Any:
    import importlib.resources
    import pkgutil

    text = importlib.resources.files("own_package").joinpath("data.txt").read_text("utf-8")
    return text == "own data\n" and pkgutil.get_data("own_package", "data.txt") == b"own data\n"


@works
def tests_of_its_own() -> Any:
    import doctest
    import io
    import unittest
    import unittest.mock

    class Case(unittest.TestCase):
        def test_mock(self) -> None:
            with unittest.mock.patch("os.getpid", return_value=7) as patched:
                self.assertTrue(patched() == 7)  # noqa: PT009

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    case = doctest.DocTestParser().get_doctest(">>> 1 + 1\n2\n", {}, "d", None, None)
    runner = doctest.DocTestRunner(verbose=False)
    return result.wasSuccessful() and runner.run(case).failed == 0


@works
def code_made_at_run_time() -> Any:
    import ast
    import compileall
    import importlib.util
    import runpy

    with open("made.py", "w", encoding="utf-8") as file:
        file.write("value = 7\n")
    spec = importlib.util.spec_from_file_location("made", "made.py")
    if spec is None or spec.loader is None:
        return False
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ran = runpy.run_path("made.py")["value"]
    return (module.value, ran, ast.literal_eval("7")) == (7, 7, 7) and compileall.compile_file(
        "made.py", quiet=2
    )


@works
def the_user_and_the_machine() -> Any:
    import getpass
    import os
    import platform
    import resource
    import sys
    import sysconfig
    import time

    platform.platform(), platform.machine(), platform.python_version(), platform.node()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (
        getpass.getuser()
        and os.cpu_count()
        and os.getuid() == os.geteuid()
        and sysconfig.get_path("stdlib")
        and usage.ru_maxrss
        and time.process_time() > 0
        and sys.executable
        and os.path.expanduser("~") == os.environ["HOME"]
    )


@works
def pipes_of_its_own() -> Any:
    import os
    import selectors

    readable, writable = os.pipe()
    with selectors.DefaultSelector() as selector:
        selector.register(readable, selectors.EVENT_READ)
        os.write(writable, b"x")
        ready = selector.select(20)
    return len(ready) == 1 and os.read(readable, 1) == b"x"


@works
def a_tls_client_without_a_peer() -> Any:
    """Contexts can be made and spoken with in memory; see `certificates_of_the_host`."""
    import ssl

    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a"
    )
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return True
    return False


# What is refused ---------------------------------------------------------------------------------

PERMISSION = "`PermissionError`"
NOT_FOUND = "`FileNotFoundError`"
STARTING = "starting a process: `os.fork`, `os.posix_spawn`, `subprocess`, `asyncio`'s too"
NETWORK = (
    "the network: `socket` but for pairs of streams, so `http.client`, `asyncio`'s connections"
)


@refused(STARTING, PERMISSION, "works")
def fork() -> Any:
    import os

    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@refused(STARTING, PERMISSION, "works")
def run_a_program() -> Any:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "pass"], check=True)


@refused(STARTING, PERMISSION, "works")
def posix_spawn() -> Any:
    import os
    import sys

    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], {}), 0)


@refused(STARTING, PERMISSION, "works")
def asyncio_subprocess() -> Any:
    import asyncio
    import sys

    async def work() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
        await process.wait()

    asyncio.run(work())


@refused("`multiprocessing.Process`, by fork", PERMISSION, "works")
def multiprocessing_process() -> Any:
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=abs, args=(1,))
    process.start()
    process.join()


SHARED = "`multiprocessing`'s locks, queues, pools and shared memory; `ProcessPoolExecutor`"


@refused(SHARED, NOT_FOUND)
def process_pool() -> Any:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as pool:
        pool.submit(abs, -1).result(20)


@refused(SHARED, NOT_FOUND)
def multiprocessing_lock() -> Any:
    import multiprocessing

    multiprocessing.Lock()


@refused(SHARED, NOT_FOUND)
def multiprocessing_pool() -> Any:
    import multiprocessing

    multiprocessing.Pool(1)


@refused(SHARED, NOT_FOUND)
def shared_memory() -> Any:
    from multiprocessing.shared_memory import SharedMemory

    SharedMemory(create=True, size=16)


@refused("programs of the host, a shell: `os.system`", "exit code 127")
def system() -> Any:
    import os

    return f"exit code {os.waitstatus_to_exitcode(os.system('true'))}"


@refused("becoming another program: `os.execv`", PERMISSION, "ends the run")
def execute() -> Any:
    import os
    import sys

    os.execv(sys.executable, [sys.executable, "-c", "pass"])


@refused(NETWORK, PERMISSION)
def connect() -> Any:
    import socket

    socket.create_connection(("192.0.2.1", 80), timeout=1)


@refused(NETWORK, PERMISSION)
def listen() -> Any:
    import socket

    socket.create_server(("127.0.0.1", 0))


@refused(NETWORK, PERMISSION)
def unix_socket() -> Any:
    import socket

    socket.socket(socket.AF_UNIX).bind("socket")


@refused(NETWORK, PERMISSION)
def datagram_pair() -> Any:
    import socket

    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


@refused(NETWORK, PERMISSION)
def http_client() -> Any:
    import http.client

    http.client.HTTPConnection("192.0.2.1", timeout=1).request("GET", "/")


@refused(NETWORK, PERMISSION)
def asyncio_connection() -> Any:
    import asyncio

    asyncio.run(asyncio.open_connection("192.0.2.1", 80))


@refused("`urllib.request`", "`URLError`")
def open_url() -> Any:
    import urllib.request

    urllib.request.urlopen("http://192.0.2.1/", timeout=1)


@refused("looking up names: `socket.getaddrinfo`", "`gaierror`")
def resolve_name() -> Any:
    import socket

    socket.getaddrinfo("example.com", 80)


@refused("certificates of the host: `ssl.create_default_context` makes a context", "no certificate")
def certificates() -> Any:
    import ssl

    return "" if ssl.create_default_context().get_ca_certs() else "no certificate"


@refused("files of the host, `/proc`, `/sys`, `/dev/shm`", NOT_FOUND)
def files_of_the_host() -> Any:
    for path in ("/etc/hostname", "/sys/kernel", "/dev/shm", "/proc/self/status"):
        try:
            open(path, "rb").close()
        except FileNotFoundError:
            continue
        return f"{path} is there"
    raise FileNotFoundError


@refused("writing beside the code", "`OSError`")
def write_beside_the_code() -> Any:
    from pathlib import Path

    Path(__file__).with_name("new").write_text("x", encoding="utf-8")


@refused(
    "loading a library that the agent wrote itself: the scratch folder holds no programs",
    "`OSError`",
)
def library_of_its_own_making() -> Any:
    import _ctypes
    import ctypes
    import shutil

    shutil.copy(_ctypes.__file__, "own.so")
    ctypes.CDLL("./own.so")


@refused("files in memory: `os.memfd_create`", PERMISSION)
def memory_file() -> Any:
    import os

    os.memfd_create("x")


@refused("terminals: `os.openpty`", NOT_FOUND)
def pseudo_terminal() -> Any:
    import os

    os.openpty()


@refused("reading input", "`EOFError`")
def read_input() -> Any:
    input()


@refused("more than 64 threads and processes together", "`RuntimeError`")
def many_threads() -> Any:
    import threading

    stop = threading.Event()
    try:
        for _ in range(100):
            threading.Thread(target=stop.wait, daemon=True).start()
    finally:
        stop.set()


@refused("a higher priority, the clock: `os.nice(-1)`, `time.clock_settime`", PERMISSION)
def raise_priority() -> Any:
    import os

    os.nice(-1)


@refused("a higher priority, the clock: `os.nice(-1)`, `time.clock_settime`", PERMISSION)
def set_clock() -> Any:
    import time

    time.clock_settime(time.CLOCK_REALTIME, 0)


@refused("signals to its process group: `os.killpg`", PERMISSION, "works")
def signal_its_group() -> Any:
    import os

    os.killpg(0, 0)
