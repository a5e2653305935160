"""Tier A: a run sees Python, its code and an empty folder, and nobody else."""

import ctypes
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_server.outcome import StopReason
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from tests.processes import descendants, is_running
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for

Tell = Callable[..., Any]
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux alone has namespaces")

TRY = """
import os

def attempt(action, *args):
    try:
        action(*args)
    except OSError as exc:
        return type(exc).__name__
    return "done"
"""


# Files --------------------------------------------------------------------------------------------


def test_agent_sees_nothing_of_the_host(tell: Tell, tmp_path: Path) -> None:
    secret = tmp_path / "secret.key"
    secret.write_text("hush")
    secret.chmod(0o644)
    paths = [
        str(secret),
        str(tmp_path),
        str(Path(__file__)),
        "/etc/shadow",
        "/etc/hostname",
        "/root/.bashrc",
        "/proc",
        "/proc/self/environ",
        f"/proc/{os.getpid()}/environ",
        "/sys",
        "/run",
        "/tmp",
        "/home",
        "/var",
        "/bin/sh",
        "/usr/bin/env",
        "/usr/bin/sh",
        "/dev/shm",
        "/dev/tty",
        "/dev/mem",
    ]
    source = "import os\ndef handle(paths): return [p for p in paths if os.path.lexists(p)]"
    assert tell(source, paths) == []
    assert tell("def handle(p): return open('/etc/passwd').read().count(':')") == 6


def test_agent_finds_no_secret_by_searching(tell: Tell, tmp_path: Path) -> None:
    (tmp_path / "code" / "neighbour").mkdir(parents=True)
    (tmp_path / "code" / "neighbour" / "needle-in-a-haystack").write_text("hush")
    source = """
        import os

        def handle(payload):
            found, seen = [], 0
            for top in payload:
                for folder, _folders, files in os.walk(top):
                    seen += len(files)
                    found += [f for f in files if "needle" in f or f in ("secret.key", "shadow")]
            return {"found": found, "seen": seen > 1000, "code": os.path.exists("/code/neighbour")}
    """
    tops = ["/", *(f"/{path.name}" for path in Path("/").iterdir()), "/code", "/agent"]
    assert tell(source, tops) == {"found": [], "seen": True, "code": False}


def test_agent_sees_its_own_code_alone(space: Sandbox, tell: Tell) -> None:
    space.run("SECRET = 'of another version'\ndef handle(p): ...")
    source = """
        import os

        def handle(payload):
            names = ["/code/1", "/code/1/main.py", "/agent/../code/1", "/agent/../1"]
            return [os.path.exists(name) for name in names] + [os.path.dirname(__file__)]
    """
    assert tell(source) == [False, False, False, False, "/agent"]


def test_code_unpacked_after_the_start_is_seen(space: Sandbox, tell: Tell) -> None:
    for number in range(3):
        assert tell(f"def handle(payload): return {number}") == number


def test_agent_cannot_write_its_code_or_the_runtime(space: Sandbox, tell: Tell) -> None:
    source = (
        TRY
        + """
import ctypes

def handle(payload):
    libc = ctypes.CDLL(None, use_errno=True)
    places = ["/agent", "/", "/etc", "/dev", "/code", os.path.dirname(os.__file__)]
    tried = [attempt(open, place + "/written", "w") for place in places]
    tried.append(attempt(os.chmod, "/agent/main.py", 0o777))
    tried.append(attempt(os.unlink, "/agent/main.py"))
    tried.append(attempt(open, "/etc/passwd", "a"))
    # Undoing what is mounted: MS_REMOUNT | MS_BIND, umount, a mount of its own.
    tried.append(libc.mount(None, b"/agent", None, 32 | 4096, None))
    tried.append(libc.umount2(b"/agent", 2))
    tried.append(libc.mount(b"x", b"/scratch/run", b"tmpfs", 0, None))
    return sorted(set(map(str, tried)))
"""
    )
    assert set(tell(source)) <= {"OSError", "PermissionError", "-1"}
    assert (space.folder / "1" / "main.py").read_text().startswith("\nimport os")


def test_user_namespace_of_its_own_reveals_no_mount(tell: Tell, space: Sandbox) -> None:
    """What the kernel lets anyone try: a user and a mount namespace, and taking mounts away."""
    space.run("SECRET = 1\ndef handle(p): ...")
    source = """
        import ctypes, os

        def handle(payload):
            libc = ctypes.CDLL(None)
            if libc.unshare(0x10000000 | 0x00020000) == 0:
                for place in (b"/agent", b"/scratch/run", b"/code", b"/"):
                    while libc.umount2(place, 2) == 0:
                        pass
            return [os.path.exists("/code/1"), os.path.exists("/code")]
    """
    assert tell(source) == [False, True]


def test_scratch_is_empty_for_each_run_and_capped(space: Sandbox, tell: Tell) -> None:
    source = """
        import os

        def handle(payload):
            before, written, made = os.listdir("."), 0, 0
            try:
                for n in range(100):
                    with open(f"big-{n}", "wb") as file:
                        written += file.write(b"x" * 100_000)
            except OSError as exc:
                full = exc.errno
            for name in os.listdir("."):
                os.unlink(name)
            try:
                for n in range(1000):
                    os.mkdir(str(n))
                    made += 1
            except OSError as exc:
                many = exc.errno
            return {"before": before, "written": written, "full": full, "made": made, "many": many}
    """
    for _ in range(2):
        seen = tell(source, scratch_bytes=1_000_000, scratch_files=50)
        assert seen["before"] == []
        assert 500_000 <= seen["written"] <= 1_100_000
        assert 20 <= seen["made"] <= 50
        assert (seen["full"], seen["many"]) == (28, 28)  # ENOSPC
    assert list(space.scratch.iterdir()) == []


def test_scratch_is_home_temporary_and_working_folder(tell: Tell) -> None:
    source = """
        import os, tempfile

        def handle(payload):
            mode = oct(os.stat(".").st_mode & 0o777)
            return [os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir(), mode]
    """
    assert tell(source) == ["/scratch/run", "/scratch/run", "/scratch/run", "0o700"]


def test_devices_are_the_harmless_ones(tell: Tell) -> None:
    source = """
        import os

        def handle(payload):
            open("/dev/null", "wb").write(b"x")
            return {
                "names": sorted(os.listdir("/dev")),
                "zero": open("/dev/zero", "rb").read(2).hex(),
                "random": len(open("/dev/urandom", "rb").read(4)),
            }
    """
    names = ["full", "null", "random", "urandom", "zero"]
    assert tell(source) == {"names": names, "zero": "0000", "random": 4}


# The world outside --------------------------------------------------------------------------------


def test_agent_reaches_no_listener(tell: Tell) -> None:
    name = f"\0anymind-test-{os.getpid()}"
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as tcp,
        closing(socket.socket(socket.AF_UNIX)) as abstract,
    ):
        abstract.bind(name)
        abstract.listen()
        source = (
            TRY
            + """
import socket

def handle(payload):
    tcp = attempt(socket.create_connection, ("127.0.0.1", payload["port"]), 5)
    far = attempt(socket.create_connection, ("192.0.2.1", 80), 5)
    unix = attempt(lambda: socket.socket(socket.AF_UNIX).connect(payload["name"]))
    return {"tcp": tcp, "far": far, "unix": unix}
"""
        )
        seen = tell(source, {"port": tcp.getsockname()[1], "name": name})
    assert "done" not in (seen["tcp"], seen["far"], seen["unix"])


def test_shared_memory_does_not_cross(space: Sandbox, tell: Tell) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x414D0000 | (os.getpid() & 0xFFFF)
    ours = libc.shmget(key, 4096, 0o1000 | 0o666)  # IPC_CREAT
    assert ours >= 0
    try:
        source = """
            import ctypes

            def handle(key):
                libc = ctypes.CDLL(None)
                found = libc.shmget(key, 4096, 0) >= 0
                libc.shmget(key, 4096, 0o1000 | 0o666)
                return found
        """
        # Not the host's, and in the second run not the first one's.
        assert [tell(source, key), tell(source, key)] == [False, False]
    finally:
        libc.shmctl(ours, 0, None)  # IPC_RMID


def test_host_name_is_its_own(tell: Tell) -> None:
    assert tell("import socket\ndef handle(p): return socket.gethostname()") == "sandbox"


# Other processes ----------------------------------------------------------------------------------


def test_agent_sees_and_signals_its_own_processes_alone(space: Sandbox, tell: Tell) -> None:
    victim = threading.Thread(
        target=lambda: outcomes.append(
            space.run("def handle(p):\n    while True: pass", key="v", allows_processes=True)
        )
    )
    outcomes: list[Any] = []
    victim.start()
    zygote = space.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: len(descendants(zygote)) == 2, "the victim to start")
    source = """
        import os, signal

        def handle(payload):
            reached = []
            for pid in [*range(1, 2000), *payload, -1]:
                if pid in (0, os.getpid()):
                    continue
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                    try:
                        os.kill(pid, number)
                        reached.append(pid)
                    except OSError:
                        pass
            return {"pid": os.getpid(), "parent": os.getppid(), "reached": sorted(set(reached))}
    """
    pids = [zygote, *descendants(zygote), os.getpid()]
    # Where Landlock does not forbid it its init may be signalled, and does not mind; no other
    # process has a number in here.
    seen = tell(source, pids, allows_processes=True)
    assert (seen["pid"], seen["parent"], set(seen["reached"]) <= {1}) == (2, 0, True)
    # One fork among the others of the zygote: the filter lets it signal itself alone.
    assert tell(source, pids)["reached"] == []
    assert is_running(zygote)
    assert not outcomes
    assert space.supervisor.cancel("v")
    victim.join()


def test_capabilities_are_all_gone(tell: Tell) -> None:
    source = """
        import ctypes

        def handle(payload):
            libc = ctypes.CDLL(None)
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            sets = (ctypes.c_uint32 * 6)(*[7] * 6)
            assert libc.capget(header, sets) == 0
            bounding = [n for n in range(64) if libc.prctl(23, n, 0, 0, 0) == 1]
            ambient = [n for n in range(64) if libc.prctl(47, 1, n, 0, 0) == 1]
            return {"sets": list(sets), "bounding": bounding, "ambient": ambient,
                    "bits": libc.prctl(27, 0, 0, 0, 0)}
    """
    seen = tell(source, allows_processes=True)  # without, capget(2) itself is refused
    assert seen == {"sets": [0] * 6, "bounding": [], "ambient": [], "bits": 0b1110_1111}


def test_agent_is_an_ordinary_user_with_one_id(tell: Tell) -> None:
    source = (
        TRY
        + """
def handle(payload):
    changed = [attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.setgroups, [])]
    return [os.getresuid(), os.getresgid(), changed]
"""
    )
    uids, gids, changed = tell(source)
    assert (set(uids), set(gids)) == ({1000}, {1000})
    assert "done" not in changed


def test_processes_are_counted_per_run(space: Sandbox, tell: Tell) -> None:
    source = """
        import os, time

        def handle(payload):
            made = 0
            try:
                while made < 200:
                    if os.fork() == 0:
                        time.sleep(1000)
                    made += 1
            except BlockingIOError:
                pass
            return made
    """
    # The agent's own process is one of the ten; what others run does not count.
    hog = threading.Thread(
        target=space.run,
        args=(source.replace("return made", "time.sleep(1000)"),),
        kwargs={"key": "hog", "processes": 20, "allows_processes": True},
    )
    hog.start()
    zygote = space.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: len(descendants(zygote)) >= 21, "the neighbour to fork")
    assert [tell(source, processes=10, allows_processes=True) for _ in range(2)] == [9, 9]
    assert space.supervisor.cancel("hog")
    hog.join()


@pytest.mark.parametrize("allows_processes", [True, False])
def test_exit_is_told_truly(space: Sandbox, allows_processes: bool) -> None:
    bodies = {
        "import os; os._exit(7)": (StopReason.EXITED, "exit code 7"),
        "import os; os.abort()": (StopReason.KILLED_BY_SIGNAL, "SIGABRT"),
        "import os; os.kill(os.getpid(), 15)": (StopReason.KILLED_BY_SIGNAL, "SIGTERM"),
        "return 1": (StopReason.RETURNED, ""),
    }
    for number, (body, (reason, text)) in enumerate(bodies.items()):
        folder = space.folder / f"exit-{number}"
        folder.mkdir(parents=True)
        (folder / "main.py").write_text(f"def handle(payload):\n    {body}\n")
        job = Job(Mode.EXECUTE, Limits(), str(folder), "main:handle", allows_processes)
        outcome = space.supervisor.run(job, key="exit")
        assert (outcome.reason, text in outcome.message) == (reason, True), outcome


# Ordinary Python, and what is left ----------------------------------------------------------------


def test_ordinary_python_works(tell: Tell) -> None:
    source = """
        import asyncio, bz2, ctypes, datetime, decimal, getpass, hashlib, lzma, os, random, sqlite3
        import ssl, subprocess, sys, tempfile, threading, uuid, zlib, zoneinfo
        from concurrent.futures import ThreadPoolExecutor

        def handle(payload):
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"x")
            database = sqlite3.connect("file.sqlite3")
            database.execute("create table t (x)")
            zone = zoneinfo.ZoneInfo("Europe/Berlin")
            there = datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC).astimezone(zone)
            with ThreadPoolExecutor(8) as pool:
                squares = list(pool.map(lambda n: n * n, range(5)))
            program = "print(6 * 7)"
            child = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE)
            user, cpus = getpass.getuser(), os.cpu_count()
            return [there.hour, squares, child.stdout.decode(), user, cpus > 0]
    """
    assert tell(source, allows_processes=True) == [14, [0, 1, 4, 9, 16], "42\n", "agent", True]


def test_nothing_is_left_on_the_host(space: Sandbox, tell: Tell) -> None:
    def look() -> tuple[str, set[str], set[int]]:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        files = {str(path) for path in space.scratch.parent.rglob("*") if "code" not in path.parts}
        zygote = space.supervisor.zygote_pid
        assert zygote is not None
        return mounts, files, descendants(zygote)

    tell("def handle(payload): open('here', 'w').write('x')")
    before = look()
    source = "import os\ndef handle(payload):\n    if os.fork() == 0:\n        while True: pass"
    tell(source, allows_processes=True)
    assert look() == before
    assert "tmpfs /scratch" not in before[0]


def test_root_serves_agents_as_another_user(space: Sandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("root servers alone change their user")
    thread = threading.Thread(
        target=space.run, args=("def handle(p):\n    while True: pass",), kwargs={"key": "long"}
    )
    thread.start()
    zygote = space.supervisor.zygote_pid
    assert zygote is not None
    pids = wait_for(lambda: descendants(zygote), "the agent to start") | {zygote}
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
    # /proc shows an undumpable process as root's: the status file tells the truth.
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        assert [line for line in lines if line.startswith("Uid:")] == ["Uid:" + "\t61000" * 4]
    assert owners <= {0, 61000}
    space.supervisor.cancel("long")
    thread.join()


def test_a_folder_closed_to_others_holds_no_code_back(space: Sandbox, tell: Tell) -> None:
    """The data folder is its owner's alone; a version's code is read through it all the same."""
    space.folder.parent.chmod(0o700)
    assert stat.S_IMODE(space.folder.stat().st_mode) == (0o710 if os.geteuid() == 0 else 0o700)
    assert tell("def handle(p): return 1") == 1


@pytest.mark.parametrize("who", ["stub", "zygote", "init"])
def test_killing_one_leaves_no_process(space: Sandbox, who: str) -> None:
    source = """
        import os, time

        def handle(payload):
            if os.fork() == 0:
                os.setsid()
            time.sleep(1000)
    """
    keywords = {"allows_processes": True}
    thread = threading.Thread(target=space.run, args=(source,), kwargs=keywords)
    thread.start()
    zygote = space.supervisor.zygote_pid
    assert zygote is not None
    wait_for(lambda: len(descendants(zygote)) == 3, "the agent to fork")
    stub = next(pid for pid in descendants(os.getpid()) if zygote in descendants(pid))
    family = {stub, zygote, *descendants(zygote)}
    init = min(descendants(zygote))  # the first that was forked
    os.kill({"stub": stub, "zygote": zygote, "init": init}[who], signal.SIGKILL)
    if who == "init":
        family -= {stub, zygote}
    wait_for(lambda: not [pid for pid in family if is_running(pid)], "all to end", seconds=1.0)
    thread.join()


def test_death_of_the_server_leaves_no_process(tmp_path: Path) -> None:
    readable, writable = os.pipe()
    server = os.fork()
    if server == 0:
        supervisor = Supervisor(tmp_path / "scratch", tmp_path / "code")
        supervisor.start()
        os.write(writable, b"%d" % (supervisor.zygote_pid or 0))
        signal.pause()
    zygote = int(os.read(readable, 100))
    family = descendants(server)
    assert zygote in family
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    os.close(readable)
    os.close(writable)
    wait_for(lambda: not [pid for pid in family if is_running(pid)], "all to end", seconds=1.0)
