"""Templates: runs of one version from a process that has imported it, and nothing else shared."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from anymind_lite.sandbox.in_server import supervisor as supervisor_module
from anymind_lite.sandbox.in_server import templates as templates_module
from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.policy import MEGABYTE, Limits, Tier
from tests.processes import children, descendants, is_running, open_descriptors
from tests.sandbox.conftest import Kept, Sandbox
from tests.sandbox.layers.children import missing
from tests.sandbox.test_execute import MISBEHAVIOUR
from tests.sandbox.versions import Version, result, wait_for_spare, warm
from tests.waiting import wait_for

WARM_BYTES = 512 * MEGABYTE


@pytest.fixture(scope="module")
def kept_warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(
        tmp_path_factory.mktemp("warm"),
        supervisor_module._STUB_PATH,
        Tier.B,
        warm_memory_bytes=WARM_BYTES,
    )
    yield kept
    kept.stop()


@pytest.fixture
def sandbox(kept_warm: Kept) -> Iterator[Sandbox]:
    """A sandbox that keeps versions imported. Nothing of a template is left after a test."""
    with kept_warm.lend() as lent:
        if lent.supervisor.ground.tier is not Tier.A:
            missing("namespaces and filtered system calls, which templates take")
        yield lent


# A run from a template is a run ------------------------------------------------------------------

ECHO = """
    import os, sys
    print("imported")

    def handle(payload):
        print("ran", payload)
        return {"got": payload, "cwd": os.getcwd(), "uid": os.getuid(), "args": sys.argv,
                "environment": dict(os.environ), "files": os.listdir("."), "limits": limits()}

    def limits():
        import resource
        names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
        return {name: resource.getrlimit(getattr(resource, name)) for name in names}
"""


def test_warm_run_is_as_a_cold_one(sandbox: Sandbox) -> None:
    cold = Version(sandbox, ECHO)
    told = cold.run({"text": "é"})
    assert not told.is_warm
    warmed = warm(sandbox, ECHO)
    for number in range(3):
        outcome = warmed.run({"text": "é"})
        assert result(outcome) == told.details["result"], number
        assert (outcome.tier, outcome.message) == (told.tier, "")


def test_what_the_import_prints_is_told_once(sandbox: Sandbox) -> None:
    version = Version(sandbox, ECHO)
    assert version.prepare().logs == "imported\n"
    assert [version.run(number).logs for number in range(2)] == ["ran 0\n", "ran 1\n"]


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_warm_run_tells_what_went_wrong(sandbox: Sandbox, name: str) -> None:
    body, reason, message = MISBEHAVIOUR[name]
    wall_seconds = 1.0 if reason is StopReason.TIMEOUT else 30.0
    version = warm(sandbox, f"def handle(payload):\n    {body}")
    for _ in range(2):  # the second shows that the template took no harm
        outcome = version.run(wall_seconds=wall_seconds)
        assert (outcome.reason, message in outcome.message) == (reason, True), outcome
        assert outcome.is_warm
    assert version.stands


def test_coroutines_run_in_a_clone(sandbox: Sandbox) -> None:
    source = """
        import asyncio

        async def handle(payload):
            await asyncio.sleep(0)
            return {"async": await asyncio.to_thread(lambda: payload)}
    """
    assert result(warm(sandbox, source).run(7)) == {"async": 7}


def test_a_clone_signals_its_own_main_thread(sandbox: Sandbox) -> None:
    """Needs the thread's id that libc keeps, which a raw clone(2) has the kernel write."""
    source = """
        import signal, threading

        def handle(payload):
            told = []
            signal.signal(signal.SIGUSR1, lambda *_: told.append(threading.get_native_id()))
            main = threading.main_thread()
            other = threading.Thread(target=signal.pthread_kill, args=(main.ident, signal.SIGUSR1))
            other.start(), other.join()
            while not told: pass
            return told[0] == threading.get_native_id()
    """
    version = warm(sandbox, source)
    assert [result(version.run()) for _ in range(2)] == [{"result": True}] * 2


# Limits and ends ---------------------------------------------------------------------------------


def test_a_run_has_its_own_cpu_limit(sandbox: Sandbox) -> None:
    version = warm(
        sandbox,
        "def handle(payload):\n    while True: pass",
        limits=Limits(cpu_seconds=1),
        importing=Limits(cpu_seconds=30),
    )
    outcome = version.run()
    assert (outcome.reason, outcome.is_warm) == (StopReason.CPU_LIMIT, True), outcome
    assert 500 <= outcome.cpu_ms < 10_000  # counted by ticks


def test_a_template_does_not_use_up_the_cpu_time_of_its_runs(sandbox: Sandbox) -> None:
    source = """
        import time
        while time.process_time() < 1.2: pass

        def handle(payload):
            while time.process_time() < 0.7: pass
            return time.process_time() < 1
    """
    limits = Limits(cpu_seconds=1)
    version = warm(sandbox, source, limits=limits, importing=Limits(cpu_seconds=5))
    assert [result(version.run()) for _ in range(2)] == [{"result": True}] * 2


LIMITED = {
    "memory": ("bytearray(200_000_000)", {"data_bytes": 96 * MEGABYTE}, "96 MB"),
    "file size": (
        "open('f', 'wb').write(b'x' * 2_000_000)",
        {"file_bytes": 1_000_000},
        "too large",
    ),
    "open files": ("[os.open('/dev/null', 0) for _ in range(100)]", {}, "Too many open files"),
    "scratch": ("open('f', 'wb').write(b'x' * 3_000_000)", {"scratch_bytes": MEGABYTE}, "No space"),
    "files": ("[open(str(n), 'w') for n in range(30)]", {"scratch_files": 20}, "No space"),
    "threads": (
        "[threading.Thread(target=stop.wait, daemon=True).start() for _ in range(20)]",
        {"processes": 10},
        "can't start new thread",
    ),
    "processes": ("os.fork()", {}, "Operation not permitted"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_clone_is_limited(sandbox: Sandbox, name: str) -> None:
    body, limits, message = LIMITED[name]
    source = f"import os, threading\nstop = threading.Event()\ndef handle(payload): {body}"
    kept: Any = replace(Limits(), **limits)
    outcome = warm(sandbox, source, limits=kept).run()
    assert message in outcome.message, outcome
    assert outcome.is_warm


def run_in_thread(version: Version, outcomes: list[Any], **keywords: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: outcomes.append(version.run(**keywords)))
    thread.start()
    return thread


def printing(sandbox: Sandbox, key: str, text: str) -> None:
    known = sandbox.supervisor._conversations
    conversation = wait_for(lambda: known.get(key), "the supervisor to take the run")
    wait_for(lambda: text in conversation._log.text(), f"the agent to print {text!r}")


CLEANS_UP = """
    import signal, sys, time

    def handle(payload):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            print("ready")
            while True: time.sleep(1)
        finally:
            print("cleaned up")
"""


def test_cancel_gives_a_clone_its_grace(sandbox: Sandbox) -> None:
    version, outcomes = warm(sandbox, CLEANS_UP), list[Any]()
    thread = run_in_thread(version, outcomes, key="victim")
    printing(sandbox, "victim", "ready")
    assert sandbox.supervisor.cancel("victim", grace_seconds=50.0)
    thread.join(60.0)
    assert (outcomes[0].reason, outcomes[0].is_warm) == (StopReason.CANCELLED, True)
    assert outcomes[0].logs.endswith("cleaned up\n")
    assert version.stands


def test_cancel_kills_a_clone_at_once(sandbox: Sandbox) -> None:
    version, outcomes = warm(sandbox, CLEANS_UP), list[Any]()
    before = wait_for_spare(sandbox)
    thread = run_in_thread(version, outcomes, key="victim")
    printing(sandbox, "victim", "ready")
    assert sandbox.supervisor.cancel("victim")
    thread.join(60.0)
    assert outcomes[0].reason is StopReason.CANCELLED
    assert "cleaned up" not in outcomes[0].logs
    assert len(wait_for_spare(sandbox) & before) == 2, "the template and its init go on"


def test_the_walls_of_a_clone_stand(sandbox: Sandbox) -> None:
    source = """
        import ctypes, errno, os, socket
        libc = ctypes.CDLL(None, use_errno=True)

        def errno_of(call):
            ctypes.set_errno(0)
            try:
                result = call()
            except OSError as exc:
                return errno.errorcode[exc.errno]
            return errno.errorcode[ctypes.get_errno()] if result == -1 else "done"

        def handle(payload):
            return {
                "unshare": errno_of(lambda: libc.unshare(0x10000000)),
                "clone": errno_of(lambda: libc.syscall(56, 0x10028000 | 17, 0, 0, 0, 0)),
                "mount": errno_of(lambda: libc.mount(b"x", b"/scratch", b"tmpfs", 0, None)),
                "socket": errno_of(lambda: socket.socket()),
                "fork": errno_of(os.fork),
                "kill": errno_of(lambda: os.kill(os.getpid() - 1, 0)),
                "setuid": errno_of(lambda: os.setuid(0)),
                "dumpable": errno_of(lambda: libc.prctl(4, 1, 0, 0, 0)),
            }
    """
    found = result(warm(sandbox, source).run())
    assert found == {**dict.fromkeys(found, "EPERM"), "socket": "EACCES", "setuid": "EINVAL"}


# Nothing crosses from run to run -----------------------------------------------------------------

CROSSING = {
    "module globals": "global seen; old, seen = seen, 1; return old",
    "environment": "old = os.environ.get('X'); os.environ['X'] = '1'; return old",
    "environment past Python": (
        "libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p\n"
        "    old = libc.getenv(b'X'); libc.setenv(b'X', b'1', 1); return str(old)"
    ),
    "files": "old = os.listdir('.'); open('left', 'w').write('x'); return old",
    "working folder": "old = os.getcwd(); os.chdir('/'); return old",
    "imported modules": "old = hasattr(json, 'poison'); json.poison = 1; return old",
    "descriptors": (
        "old = [fd for fd in range(64) if is_open(fd)]; os.open('/dev/null', 0); return old"
    ),
    "signal handlers": ("old = str(signal.signal(signal.SIGUSR1, signal.SIG_IGN)); return old"),
    "mask of file modes": "return os.umask(0o123)",
    "streams": "old = sys.stdout.name; sys.stdout = open('out', 'w'); return old",
    "memory of the code": (
        "old = handle.__code__.co_consts[-1]; handle.__code__ = other.__code__; return str(old)"
    ),
    "priority": "old = os.getpriority(0, 0); os.nice(3); return old",
    "threads": (
        "old = threading.active_count()\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start(); return old"
    ),
}
STATEFUL = """
import ctypes, json, os, signal, sys, threading
seen = 0

def is_open(fd):
    try:
        return os.fstat(fd) is not None
    except OSError:
        return False

def other(payload): return "other"

def handle(payload):
    {body}
"""


@pytest.mark.parametrize("name", CROSSING)
def test_state_does_not_cross_between_runs(sandbox: Sandbox, name: str) -> None:
    version = warm(sandbox, STATEFUL.format(body=CROSSING[name]))
    found = [result(version.run()) for _ in range(4)]
    assert found == [found[0]] * 4
    assert found[0]["result"] in (0, None, "None", [], False, "/scratch/run") or name in (
        "descriptors",
        "signal handlers",
        "mask of file modes",
        "streams",
        "memory of the code",
        "threads",
    )


def test_clone_writes_to_its_own_scratch_folder(sandbox: Sandbox) -> None:
    """Two at once see their own files alone, by relative and by absolute names."""
    source = """
        import os, time

        def handle(payload):
            open(f"file-{payload}", "w").write("x")
            print("ready")
            end = time.monotonic() + 30
            while payload == 1 and not os.path.exists("/agent/never") and time.monotonic() < end:
                time.sleep(0.01)
            home = os.environ["HOME"]
            return [sorted(os.listdir(".")), sorted(os.listdir(home)), os.getcwd() == home]
    """
    version, outcomes = warm(sandbox, source), list[Any]()
    thread = run_in_thread(version, outcomes, key="first", payload=1)
    printing(sandbox, "first", "ready")
    assert result(version.run(2)) == {"result": [["file-2"], ["file-2"], True]}
    sandbox.supervisor.cancel("first")
    thread.join(60.0)
    assert result(version.run(3)) == {"result": [["file-3"], ["file-3"], True]}


RANDOM = {
    "random": ("import random", "random.random()"),
    "numpy's, as it stands": ("import numpy.random", "numpy.random.value"),
    "uuid4": ("import uuid", "str(uuid.uuid4())"),
    "uuid1": ("import uuid\nuuid.uuid1()", "str(uuid.uuid1())"),
    "ssl": ("import ssl\nssl.RAND_bytes(8)", "ssl.RAND_bytes(16).hex()"),
    "secrets": ("import secrets", "secrets.token_hex()"),
    "urandom": ("import os\nos.urandom(1)", "os.urandom(16).hex()"),
    "tempfile": ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp()"),
}
# What a clone calls: a stream that stands still until it is seeded from the kernel.
NUMPY = {
    "numpy/__init__.py": "",
    "numpy/random.py": """
        import os
        value = 0

        def seed():
            global value
            value = os.urandom(8).hex()
    """,
}


@pytest.mark.parametrize("name", RANDOM)
def test_every_run_draws_its_own_randomness(sandbox: Sandbox, name: str) -> None:
    imports, draw = RANDOM[name]
    source = f"{imports}\ndef handle(payload): return {draw}"
    version = warm(sandbox, source, files=NUMPY)
    drawn = {result(version.run())["result"] for _ in range(5)}
    assert len(drawn) == 5
    assert 0 not in drawn


def test_numpy_itself_draws_anew(sandbox: Sandbox) -> None:
    pytest.importorskip("numpy")
    source = "import numpy\ndef handle(payload): return int(numpy.random.randint(2**62))"
    version = warm(sandbox, source)
    assert len({result(version.run())["result"] for _ in range(3)}) == 3


# What may not be cloned --------------------------------------------------------------------------

OWN_SHARED_MEMORY = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
place = libc.mmap(None, ctypes.c_size_t(8192), 3, 0x21, -1, ctypes.c_size_t(0))
ctypes.memset(place, 1, 8192)
"""
OWN_THREAD = """
import ctypes
libc = ctypes.CDLL(None)
assert libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None) == 0
"""
UNFIT = {
    "a thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        "it started a thread",
    ),
    "an open file": ("file = open(__file__)", "descriptor"),
    "a pair of sockets": ("import socket\npair = socket.socketpair()", "descriptor"),
    "a pipe": ("import os\nends = os.pipe()", "descriptor"),
    "an event loop": ("import asyncio\nloop = asyncio.new_event_loop()", "descriptor"),
    "a database": (
        "import sqlite3\nbase = sqlite3.connect('base')\nbase.execute('create table t(x)')",
        "descriptor",
    ),
    "a mask": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
        "mask of signals",
    ),
    "an alarm": ("import signal\nsignal.alarm(1000)", "timer"),
    "a profiling timer": (
        "from signal import *; signal(SIGPROF, SIG_IGN); setitimer(ITIMER_PROF, 1000)",
        "timer",
    ),
    "a file": ("open('left', 'w').write('x')", "1 file in the working folder"),
    "a memory map": (
        "import mmap\nshared = mmap.mmap(-1, 8192)\nshared[0] = 1",
        "memory map",
    ),
    "a memory map that nobody has touched": (
        "import mmap\nshared = mmap.mmap(-1, 8192)",
        "memory map",
    ),
    "shared memory of its own": (OWN_SHARED_MEMORY, "shared memory"),
    "a thread that Python does not know": (OWN_THREAD, "it started a thread"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_must_not_be_cloned_runs_cold(sandbox: Sandbox, name: str) -> None:
    imports, why = UNFIT[name]
    version = Version(sandbox, f"{imports}\ndef handle(payload): return payload")
    outcome = version.prepare()
    assert (outcome.reason, why in outcome.message) == (StopReason.UNFIT, True), outcome
    assert why in (version.why_unfit or "")
    assert not version.stands
    told = version.run(7)
    assert (told.reason, told.is_warm) == (StopReason.RETURNED, False), told
    version.want()  # is remembered, and not tried again
    assert version.name not in sandbox.supervisor.templates._wanted


FIT = {
    "a closed file": "open(__file__).close()",
    "a thread that has ended": (
        "import ctypes, os, threading\nthread = threading.Thread(target=int)\n"
        "thread.start(), thread.join()\n"  # which returns a moment before the kernel's has ended
        "while ctypes.CDLL(None).tgkill(os.getpid(), thread.native_id, 0) == 0: pass"
    ),
    "a handler": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)",
    "a closed memory map": "import mmap\nmmap.mmap(-1, 10).close()",
    "an exit handler": "import atexit\natexit.register(print, 'bye')",
}


@pytest.mark.parametrize("name", FIT)
def test_what_may_be_cloned_is(sandbox: Sandbox, name: str) -> None:
    version = warm(sandbox, f"{FIT[name]}\ndef handle(payload): return payload")
    assert result(version.run(7)) == {"result": 7}


IMPORTS_BADLY = {
    "raises": ("1 / 0", StopReason.IMPORT_FAILED, "ZeroDivisionError"),
    "exits": ("import sys; sys.exit(3)", StopReason.EXITED, "exit code 3"),
    "crashes": ("import ctypes; ctypes.string_at(0)", StopReason.KILLED_BY_SIGNAL, "SIGSEGV"),
    "never ends": ("while True: pass", StopReason.TIMEOUT, "longer than 1 s"),
    "has no handle": ("del handle", StopReason.IMPORT_FAILED, "no function handle"),
    "wants two arguments": (
        "def handle(one, two): ...",
        StopReason.IMPORT_FAILED,
        "must take one argument",
    ),
}


@pytest.mark.parametrize("name", IMPORTS_BADLY)
def test_an_import_fails_as_that_of_a_build(sandbox: Sandbox, name: str) -> None:
    body, reason, message = IMPORTS_BADLY[name]
    seconds = 1.0 if reason is StopReason.TIMEOUT else 30.0
    source = f"def handle(payload): ...\n{body}"
    version = Version(sandbox, source, limits=Limits(wall_seconds=seconds))
    outcome = version.prepare()
    assert (outcome.reason, message in outcome.message) == (reason, True), outcome
    assert not version.stands


def test_an_import_uses_up_its_cpu_time(sandbox: Sandbox) -> None:
    source = "while True: pass\ndef handle(payload): ..."
    version = Version(sandbox, source, limits=Limits(cpu_seconds=1))
    assert version.prepare().reason is StopReason.CPU_LIMIT


# The pool ----------------------------------------------------------------------------------------

HEAVY = "data = bytearray(b'x' * 30_000_000)\ndef handle(payload): return len(data)"


def test_the_least_recently_used_goes_first(sandbox: Sandbox) -> None:
    pool = sandbox.supervisor.templates
    first, second = warm(sandbox, HEAVY), warm(sandbox, HEAVY)
    assert result(first.run()) == {"result": 30_000_000}
    taken = sum(one.memory_bytes for one in pool._standing.values())
    assert taken > 60_000_000
    before, pool._memory_bytes = pool._memory_bytes, taken + 5_000_000
    try:
        third = warm(sandbox, HEAVY)
    finally:
        pool._memory_bytes = before
    assert (first.stands, second.stands, third.stands) == (True, False, True)
    assert not second.run().is_warm
    assert result(first.run()) == {"result": 30_000_000}


def test_one_that_is_larger_than_all_may_be_does_not_stay(sandbox: Sandbox) -> None:
    pool = sandbox.supervisor.templates
    before, pool._memory_bytes = pool._memory_bytes, 10_000_000
    try:
        version = Version(sandbox, HEAVY)
        assert version.prepare().reason is StopReason.RETURNED
    finally:
        pool._memory_bytes = before
    assert not version.stands
    assert not version.run().is_warm


def test_only_so_many_are_kept(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates_module, "_MOST_TEMPLATES", 2)
    versions = [warm(sandbox, "def handle(payload): return 1") for _ in range(3)]
    assert [one.stands for one in versions] == [False, True, True]


def test_a_machine_that_runs_short_of_memory_ends_all(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = warm(sandbox, "def handle(payload): return 1")
    monkeypatch.setattr(templates_module, "_free_share", lambda: 0.01)
    sandbox.supervisor.templates._bell.ring()
    wait_for(lambda: not version.stands, "the template to go")
    assert not version.run().is_warm


def test_a_dropped_template_lets_its_run_finish(sandbox: Sandbox) -> None:
    source = """
        import signal

        def handle(payload):
            signal.signal(signal.SIGUSR1, lambda *_: None)
            print("ready")
            signal.pause()
            return "finished"
    """
    version, outcomes = warm(sandbox, source), list[Any]()
    before = wait_for_spare(sandbox)
    thread = run_in_thread(version, outcomes, key="last")
    printing(sandbox, "last", "ready")
    sandbox.supervisor.templates.drop(version.name)
    init_and_run = wait_for_spare(sandbox, 2)  # the template and the next spare are gone
    assert not outcomes
    os.kill(max(init_and_run), signal.SIGUSR1)
    thread.join(60.0)
    assert result(outcomes[0]) == {"result": "finished"}
    wait_for(lambda: not any(is_running(pid) for pid in before), "all of it to be gone")


def test_wanted_templates_are_made_in_the_background(sandbox: Sandbox) -> None:
    version = Version(sandbox, "def handle(payload): return payload")
    assert not version.run(1).is_warm
    version.want()
    wait_for(lambda: version.stands, "the template")
    assert result(version.run(2)) == {"result": 2}


def end_template(version: Version) -> None:
    """Kill the one template that there is, by its init."""
    os.kill(min(wait_for_spare(version.sandbox)), signal.SIGKILL)
    wait_for(lambda: not version.stands, "the server to notice")


def test_a_template_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    version = warm(sandbox, "def handle(payload): return payload")
    for _ in range(2):
        end_template(version)
        assert not version.run(1).is_warm
        version.want()
        wait_for(lambda: version.stands, "another template")
        assert result(version.run(2)) == {"result": 2}


def test_a_spare_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    version = warm(sandbox, "import os\ndef handle(payload): return payload")
    first = wait_for_spare(sandbox)
    os.kill(max(first), signal.SIGKILL)
    wait_for(lambda: wait_for_spare(sandbox) != first, "another spare")
    assert result(version.run(1)) == {"result": 1}


def test_a_template_that_ends_again_and_again_is_given_up(sandbox: Sandbox) -> None:
    version = Version(sandbox, "def handle(payload): return payload")
    for _ in range(templates_module._MOST_DEATHS):
        version.want()
        wait_for(lambda: version.stands, "the template")
        end_template(version)
    assert version.why_unfit == "it ended 3 times"
    version.want()
    assert version.run(1).details["result"] == {"result": 1}
    assert not version.stands


def test_a_template_that_served_long_is_not_to_blame(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CPU time is used up by cloning some day."""
    monkeypatch.setattr(templates_module, "_MANY_RUNS", 1)
    version = Version(sandbox, "def handle(payload): return payload")
    for _ in range(templates_module._MOST_DEATHS + 1):
        version.want()
        wait_for(lambda: version.stands, "the template")
        assert version.run(1).is_warm
        end_template(version)
    assert version.why_unfit is None


def kill_with_all(pid: int | None) -> None:
    """Kill a process; all below it must go as well."""
    assert pid is not None
    pids = {pid, *descendants(pid)}
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_running(one) for one in pids), "all to be gone")


def test_the_end_of_a_zygote_is_no_fault_of_the_versions(sandbox: Sandbox) -> None:
    version = Version(sandbox, "def handle(payload): return payload")
    for _ in range(templates_module._MOST_DEATHS):
        wait_for(lambda: sandbox.supervisor.is_serving, "a zygote")
        version.want()
        wait_for(lambda: version.stands, "the template")
        kill_with_all(sandbox.supervisor.zygote_pid)
        wait_for(lambda: not version.stands, "the server to notice")
    assert version.why_unfit is None
    wait_for(lambda: sandbox.supervisor.is_serving, "a zygote")
    assert version.run(1).details["result"] == {"result": 1}


def test_many_runs_of_two_versions_keep_apart(sandbox: Sandbox) -> None:
    source = "def handle(payload):\n    print('log', {0}, payload)\n    return [{0}, payload]"
    versions = [warm(sandbox, source.format(number)) for number in range(2)]
    outcomes: dict[tuple[int, int], Any] = {}

    def run(which: int, number: int) -> None:
        outcomes[which, number] = versions[which].run(number)

    threads = [threading.Thread(target=run, args=(w, n)) for n in range(8) for w in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    assert {key: result(one)["result"] for key, one in outcomes.items()} == {
        (which, number): [which, number] for which in range(2) for number in range(8)
    }
    assert all(one.logs == f"log {key[0]} {key[1]}\n" for key, one in outcomes.items())


def test_stop_ends_templates_and_their_runs(sandbox: Sandbox) -> None:
    version, outcomes = warm(sandbox, CLEANS_UP), list[Any]()
    thread = run_in_thread(version, outcomes, key="victim")
    printing(sandbox, "victim", "ready")
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    pids = {zygote, *descendants(zygote)}
    sandbox.supervisor.stop()
    thread.join(60.0)
    assert outcomes[0].reason is StopReason.SANDBOX_FAILURE
    assert not [pid for pid in pids if is_running(pid)]


def test_warm_runs_leave_no_descriptor(sandbox: Sandbox) -> None:
    version = warm(sandbox, "def handle(payload): return 1")
    fds = f"/proc/{sandbox.supervisor.zygote_pid}/fd"
    version.run()
    wait_for_spare(sandbox)
    mine, zygotes = open_descriptors(), len(os.listdir(fds))
    for _ in range(20):
        assert version.run().is_warm
    assert open_descriptors() == mine
    wait_for(lambda: len(os.listdir(fds)) <= zygotes, "the last lease to be closed")


def test_templates_leave_no_descriptor(sandbox: Sandbox) -> None:
    fds = f"/proc/{sandbox.supervisor.zygote_pid}/fd"
    warm(sandbox, "def handle(payload): return 1").run()
    sandbox.supervisor.templates.drop_all("")
    wait_for(lambda: not children(sandbox.supervisor.zygote_pid or 0), "the template's end")
    mine, zygotes = open_descriptors(), len(os.listdir(fds))
    for _ in range(5):
        version = warm(sandbox, "def handle(payload): return 1")
        assert version.run().is_warm
        sandbox.supervisor.templates.drop(version.name)
    wait_for(lambda: open_descriptors() <= mine, "the server's to be closed")
    wait_for(lambda: len(os.listdir(fds)) <= zygotes, "the zygote's to be closed")
