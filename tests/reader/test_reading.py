"""What a reading can touch once it was taken over, and what the server makes of its end."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.archive import ArchiveLimits
from anymind_lite.errors import BuildError
from anymind_lite.manifest import load_manifest
from anymind_lite.reader import in_server
from anymind_lite.reader.in_server import Reader, ReaderFailed, ReadingCancelled
from anymind_lite.sandbox.in_child.layers import linux_landlock, linux_seccomp
from anymind_lite.sandbox.protocol import SANDBOX_UID
from tests.live_server import ROOT, pack
from tests.processes import children, descendants, open_descriptors, pids_with_argument
from tests.reader.conftest import GOOD, Start, unpack
from tests.unit import test_archive as archives
from tests.unit import test_manifest as manifests
from tests.waiting import DEADLINE_SECONDS, wait_for

IS_ROOT = os.geteuid() == 0

needs_both_walls = pytest.mark.skipif(
    bool(linux_landlock.why_not() or linux_seccomp.why_not()),
    reason="needs Landlock and seccomp",
)


def test_files_modes_owner_and_manifest_arrive(start: Start, tmp_path: Path) -> None:
    files = {"p/anymind.yaml": "name: Größe\nentrypoint: lib.main:run\ndescription: |\n  a\n  b\n"}
    archive = pack({**files, "p/lib/main.py": "x", "p/data.bin": b"\0" * 70_000})
    found = unpack(start(), tmp_path / "code", archive)
    assert (found.root, found.files) == ("p", ("anymind.yaml", "data.bin", "lib/main.py"))
    assert found.manifest == load_manifest(files["p/anymind.yaml"], found.files)
    assert (tmp_path / "code" / "p" / "data.bin").read_bytes() == b"\0" * 70_000
    for path in (tmp_path / "code").rglob("*"):
        seen = path.stat()
        assert stat.S_IMODE(seen.st_mode) == (0o755 if path.is_dir() else 0o644)
        assert seen.st_uid == (SANDBOX_UID if IS_ROOT else os.geteuid())


def test_archives_get_the_same_answers_as_without_walls(start: Start, tmp_path: Path) -> None:
    """Nothing that a message needs is out of reach behind the walls, such as a codec."""
    reader = start()
    cases = [*archives.REFUSED.values(), *archives.BROKEN.values()]
    for number, (content, expected) in enumerate(cases):
        is_packed = number >= len(archives.REFUSED)
        upload = content if is_packed else archives.packed(archives.tar(content))
        with pytest.raises(BuildError) as caught:
            unpack(reader, tmp_path / str(number), upload)
        assert expected in str(caught.value)


def test_manifests_get_the_same_answers_as_without_walls(start: Start, tmp_path: Path) -> None:
    reader = start()
    for number, (text, _) in enumerate([*manifests.BROKEN.values(), *manifests.FIELDS.values()]):
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        files = dict.fromkeys(manifests.FILES, b"") | {"anymind.yaml": raw}
        with pytest.raises(BuildError) as expected:
            load_manifest(raw, manifests.FILES)
        with pytest.raises(BuildError) as caught:
            unpack(reader, tmp_path / str(number), pack(files))
        assert str(caught.value) == str(expected.value)


def test_uploads_are_told_from_other_files(start: Start, tmp_path: Path) -> None:
    reader = start()
    for content, expected in ((GOOD, True), (GOOD[:2], False), (b"PK\3\4", False), (b"", False)):
        path = tmp_path / "upload"
        path.write_bytes(content)
        with path.open("rb") as file:
            assert reader.is_tar_gz(file) is expected


@pytest.mark.parametrize(
    "attack", ["ctypes.string_at(0)", "raise MemoryError", "raise BuildError('a')"]
)
def test_an_upload_that_crashes_its_reader_is_no_archive(
    start: Start, tmp_path: Path, attack: str
) -> None:
    more = f"def look(archive):\n    {attack}\nin_reading.is_tar_gz = look"
    (tmp_path / "upload").write_bytes(GOOD)
    with (tmp_path / "upload").open("rb") as file:
        assert start(more=more).is_tar_gz(file) is False


def test_many_at_once_each_get_their_own(start: Start, tmp_path: Path) -> None:
    reader = start()

    def read(number: int) -> str:
        manifest = f"name: agent {number}\nentrypoint: main:handle\n"
        files = {"anymind.yaml": manifest, "main.py": ""}
        return unpack(reader, tmp_path / str(number), pack(files)).manifest.name

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(read, range(24)))
    assert names == [f"agent {number}" for number in range(24)]


# --- taken over ---

# Each is tried by a reading that was taken over; what it answers is errno's name, or "done".
TRIES = {
    "read a file of the server": "open({secret!r})",
    "write a file of the server": "open({secret!r}, 'a')",
    "read a file of everybody": "open('/etc/passwd')",
    "list the root": "os.listdir('/')",
    "leave the folder": "os.open('..', os.O_RDONLY, dir_fd=folder)",
    "make a file beside": "open({beside!r}, 'w')",
    "link a file in": "os.link({secret!r}, 'stolen', dst_dir_fd=folder)",
    "read through a link": "(os.symlink({secret!r}, 'l'), open('l'))",
    "move the folder away": "os.rename({folder!r}, {beside!r})",
    "delete a file of the server": "os.unlink({secret!r})",
    "change a mode": "(os.chmod({secret!r}, 0o777), open({secret!r}))",
    "an internet socket": "socket.socket()",
    "a named socket": "socket.socket(socket.AF_UNIX)",
    "a process": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "kill its guard": "os.kill(os.getppid(), 9)",
    "kill all it may": "os.kill(-1, 9)",
    "trace its guard": "os.stat('/proc/self') and call(libc.ptrace(16, os.getppid(), 0, 0))",
    "be root": "os.setuid(0) if os.getuid() else call(-1)",
    "outlive its guard": "call(libc.prctl(1, 0, 0, 0, 0))",
    "more memory": "__import__('resource').setrlimit(9, (-1, -1))",
}
ATTACK = """
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result < 0: raise OSError(ctypes.get_errno() or errno.EPERM, "")
came_of = {{}}
for name, source in {tries!r}.items():
    try:
        eval(source)
        came_of[name] = "done"
    except OSError as exc:
        came_of[name] = errno.errorcode[exc.errno]
    except ValueError as exc:
        came_of[name] = type(exc).__name__
raise BuildError(json.dumps(came_of))
"""


def said(reader: Reader, folder: Path) -> Any:
    with pytest.raises(BuildError) as caught:
        unpack(reader, folder)
    return json.loads(str(caught.value))


@needs_both_walls
def test_a_reading_that_was_taken_over_reaches_nothing(start: Start, tmp_path: Path) -> None:
    secret, beside = tmp_path / "secret", tmp_path / "beside"
    secret.write_text("secret")
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    places = {"secret": str(secret), "beside": str(beside), "folder": str(tmp_path / "code")}
    tries = {name: source.format(**places) for name, source in TRIES.items()}
    came_of = said(start(ATTACK.format(tries=tries)), tmp_path / "code")
    assert {name: end for name, end in came_of.items() if end == "done"} == {}
    assert came_of.keys() == TRIES.keys()
    assert secret.read_text() == "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o666
    assert not beside.exists()


def test_a_reading_holds_its_three_descriptors_alone(start: Start, tmp_path: Path) -> None:
    attack = """
    kinds = []
    for fd in range(3, 100):
        try:
            kinds.append(os.fstat(fd).st_mode >> 12)
        except OSError:
            pass
    raise BuildError(json.dumps([sorted(kinds), dict(os.environ), os.getresuid()]))
    """
    kinds, environment, uids = said(start(attack), tmp_path / "code")
    assert kinds == [stat.S_IFIFO >> 12, stat.S_IFDIR >> 12, stat.S_IFREG >> 12]
    assert set(environment) <= {"LANG", "LC_CTYPE"}
    assert uids == [SANDBOX_UID if IS_ROOT else os.geteuid()] * 3


def test_the_archive_cannot_be_changed(start: Start, tmp_path: Path) -> None:
    attack = """
    try:
        os.write(archive.fileno(), b"x")
    except OSError as exc:
        raise BuildError(json.dumps(exc.errno))
    """
    assert said(start(attack), tmp_path / "code") == errno.EBADF
    assert (tmp_path / "code.tar.gz").read_bytes() == GOOD


@pytest.mark.parametrize(
    "wall", ["linux_landlock.restrict", "linux_seccomp.install", "posix.leave_root"]
)
@needs_both_walls
def test_nothing_is_read_when_a_wall_cannot_be_put_up(
    start: Start, tmp_path: Path, wall: str
) -> None:
    more = f"""
    def fail(*_, **__):
        raise OSError(errno.EPERM, "refused")
    in_reading.{wall} = fail
    """
    reader = start("os.mkdir('was_here', dir_fd=folder)", more)
    with pytest.raises(ReaderFailed, match=r"confinement: .*refused"):
        unpack(reader, tmp_path / "code")
    assert os.listdir(tmp_path / "code") == []


# --- ends ---

HOGS = {
    "memory": ("hoard = []\nwhile True: hoard.append(bytearray(1 << 20))", "more memory"),
    "computing": ("while True: pass", "more than 1 s of computing"),
    "ignored limit": ("signal.signal(signal.SIGXCPU, 1)\nwhile True: pass", "of computing"),
    "time": ("time.sleep(600)", "longer than 1 s"),
    "crash": ("ctypes.string_at(0)", r"crashed \(signal 11\); make and upload it again"),
}


@pytest.mark.parametrize("name", HOGS)
def test_what_an_archive_caused_is_told_to_its_sender(
    start: Start, tmp_path: Path, name: str
) -> None:
    attack, expected = HOGS[name]
    reader = start(attack)
    reader._wall_seconds, reader._cpu_seconds = 1.0 if name == "time" else 20.0, 1
    with pytest.raises(BuildError, match=expected):
        unpack(reader, tmp_path / "code")


@pytest.mark.parametrize(
    "attack", ["os.kill(os.getpid(), 9)", "os._exit(3)", "raise TypeError('a')"]
)
def test_a_fault_of_ours_is_no_fault_of_the_archive(
    start: Start, tmp_path: Path, attack: str
) -> None:
    with pytest.raises(ReaderFailed):
        unpack(start(attack), tmp_path / "code")


@pytest.mark.skipif(not IS_ROOT, reason="mounts a small file system")
def test_a_full_disk_is_ours(start: Start, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("may not mount")
    try:
        archive = pack({"anymind.yaml": manifests.MINIMAL, "main.py": os.urandom(200_000)})
        (tmp_path / "upload").write_bytes(archive)
        folder = os.open(small, os.O_RDONLY)
        try:
            with (tmp_path / "upload").open("rb") as file, pytest.raises(OSError) as caught:  # noqa: PT011
                start().unpack(file, folder)
        finally:
            os.close(folder)
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", str(small)], check=True)


GARBAGE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "no object": b"[]",
    "two documents": b'{"error": "a"}{"error": "b"}',
    "deep": b'{"unpacked": ' + b"[" * 90_000,
    "nothing known": b'{"surprise": 1}',
    "an error that is no text": b'{"error": {"a": 1}}',
    "an error without end": b'{"error": "' + b"a" * 30_000 + b'"}',
    "an errno that is none": b'{"errno": -5}',
    "a failure that is none": b'{"failure": null}',
    "a flag instead": b'{"is_tar_gz": true}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_senseless_answer_fails_the_one_build(start: Start, tmp_path: Path, name: str) -> None:
    more = f"in_reading._answer = lambda fd, document: os.write(fd, {GARBAGE[name]!r})"
    with pytest.raises(BuildError, match="could not be read; make and upload it again"):
        unpack(start(more=more), tmp_path / "code")


def test_an_endless_answer_is_cut_off(start: Start, tmp_path: Path) -> None:
    more = """
    def flood(fd, document):
        while True:
            os.write(fd, b" " * 65536)
    in_reading._answer = flood
    """
    reader = start(more=more)
    with pytest.raises(BuildError, match="could not be read"):
        unpack(reader, tmp_path / "code")


# --- life and death ---


def test_a_reader_that_died_is_replaced(start: Start, tmp_path: Path) -> None:
    reader = start()
    unpack(reader, tmp_path / "first")
    first = reader._process
    assert first is not None
    first.kill()
    first.wait()
    unpack(reader, tmp_path / "second")
    assert reader._process is not first


def reading_in_thread(
    reader: Reader, folder: Path, **options: object
) -> tuple[threading.Thread, list[BaseException]]:
    """Begin a reading that lasts; wait until it runs."""
    raised: list[BaseException] = []

    def read() -> None:
        try:
            unpack(reader, folder, **options)  # type: ignore[arg-type]
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(lambda: (folder / "begun").exists(), "the reading to begin")
    return thread, raised


LASTING = "os.mkdir('begun', dir_fd=folder)\ntime.sleep(600)"


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_reading_is_called_off_with_its_process(start: Start, tmp_path: Path, how: str) -> None:
    reader = start(LASTING)
    thread, raised = reading_in_thread(reader, tmp_path / "code", key="mine")
    assert reader._process is not None
    running = descendants(reader._process.pid)
    assert len(running) == 2
    reader.cancel("other")
    assert thread.is_alive()
    reader.cancel("mine") if how == "cancel" else reader.stop()
    thread.join(DEADLINE_SECONDS)
    assert [type(exc) for exc in raised] == [ReadingCancelled]
    wait_for(lambda: not pids_with_argument("taken_over") & running, "the processes to end")


def test_a_reading_that_is_not_wanted_any_more_never_begins(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ReadingCancelled):
        unpack(start(LASTING), tmp_path / "code", is_wanted=lambda: False)
    assert os.listdir(tmp_path / "code") == []


def test_readings_that_lose_their_reader_fail_and_end(start: Start, tmp_path: Path) -> None:
    reader = start(LASTING)
    thread, raised = reading_in_thread(reader, tmp_path / "code")
    assert reader._process is not None
    running = descendants(reader._process.pid)
    reader._process.kill()
    thread.join(DEADLINE_SECONDS)
    assert [type(exc) for exc in raised] == [ReaderFailed]
    wait_for(lambda: not pids_with_argument("taken_over") & running, "the processes to end", 2)


def test_no_process_outlives_a_server_that_was_killed(tmp_path: Path, start: Start) -> None:
    start(LASTING).stop()  # writes the script
    code = tmp_path / "code"
    server = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from anymind_lite.reader import in_server
from tests.reader.conftest import LIMITS, unpack
in_server._READER_PATH = Path({str(tmp_path / "taken_over.py")!r})
reader = in_server.Reader(LIMITS)
reader.start()
unpack(reader, Path({str(code)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", server])
    try:
        wait_for(lambda: (code / "begun").exists(), "the reading to begin")
        running = descendants(process.pid)
        assert len(running) == 3
    finally:
        process.kill()
        process.wait()
    script = str(tmp_path / "taken_over.py")
    wait_for(lambda: not pids_with_argument(script), "the processes to end", 1)


def test_the_process_is_there_only_while_there_are_uploads(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(os.getpid())
    reader = start()
    assert children(os.getpid()) == before
    unpack(reader, tmp_path / "0")
    reader.end_if_idle()
    assert len(children(os.getpid()) - before) == 1
    monkeypatch.setattr(in_server, "_IDLE_SECONDS", 0.0)
    unpack(reader, tmp_path / "1")
    reader.end_if_idle()
    assert children(os.getpid()) == before
    assert unpack(reader, tmp_path / "2").files


def test_a_reading_in_progress_is_not_idle(start: Start, tmp_path: Path) -> None:
    reader = start(LASTING)
    thread, raised = reading_in_thread(reader, tmp_path / "code")
    reader.end_if_idle()
    assert thread.is_alive()
    reader.stop()
    thread.join(DEADLINE_SECONDS)
    assert [type(exc) for exc in raised] == [ReadingCancelled]


def test_readings_leave_no_descriptor_and_no_process(start: Start, tmp_path: Path) -> None:
    reader = start()
    unpack(reader, tmp_path / "0")
    before = open_descriptors()
    for number in range(1, 6):
        unpack(reader, tmp_path / str(number))
        with pytest.raises(BuildError):
            unpack(reader, tmp_path / f"bad{number}", b"\x1f\x8b")
    assert open_descriptors() == before
    assert reader._process is not None
    pid = reader._process.pid
    wait_for(lambda: not descendants(pid), "the guards to end")


def test_a_bomb_ends_at_the_limit(start: Start, tmp_path: Path) -> None:
    limits = ArchiveLimits(max_bytes=8 * 2**20, max_files=50)
    archive = pack({"anymind.yaml": manifests.MINIMAL, "main.py": bytes(64 * 2**20)})
    with pytest.raises(BuildError, match="unpacks to more than 8 MB"):
        unpack(start(limits=limits), tmp_path / "code", archive)
