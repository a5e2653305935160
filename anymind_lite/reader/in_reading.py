"""One reading: shuts itself in, reads the archive and the manifest, answers, exits.

Runs in a fork of the reader, trusted until it touches the archive and hostile after. It holds
three descriptors: the answer, the archive (to read) and the folder (to fill). A wall that cannot be
put up ends the reading before its first byte is read; nothing is ever read with less.
"""

import errno
import json
import os
import resource
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from anymind_lite.archive import (
    MANIFEST_NAME,
    ArchiveLimits,
    find_root,
    is_tar_gz,
    unpack_archive,
)
from anymind_lite.errors import BuildError
from anymind_lite.manifest import MAX_MANIFEST_BYTES, load_manifest
from anymind_lite.reader.answer import MAX_TEXT_CHARS
from anymind_lite.sandbox.in_child.layers import linux_landlock, linux_seccomp, posix
from anymind_lite.sandbox.in_child.layers.linux_bpf import Program
from anymind_lite.sandbox.in_child.layers.linux_calls import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    prctl,
)
from anymind_lite.sandbox.policy import MEGABYTE

_ADDRESS_SPACE_BYTES = 512 * MEGABYTE
_DATA_BYTES = 256 * MEGABYTE
_OPEN_FILES = 32
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OUT_OF_MEMORY = (
    "Reading the archive takes more memory than there is for it; make it of fewer and simpler "
    "files."
)


@dataclass(frozen=True)
class Walls:
    """What this machine offers beyond rlimits, found once; all of it is then demanded."""

    landlock_abi: int
    system_calls: Program | None


@dataclass(frozen=True)
class Reading:
    """One archive to read. Without a folder it is only told what it is."""

    answer_fd: int
    archive_fd: int
    folder_fd: int | None
    limits: ArchiveLimits
    cpu_seconds: int
    guard_pid: int


def find_walls() -> Walls:
    """Return what the kernel offers; the filter of system calls is made here, once."""
    abi = linux_landlock.supported_abi()
    if linux_seccomp.why_not():
        return Walls(abi, None)
    program = linux_seccomp.build_filter(
        allows_processes=False, has_own_pids=False, is_only_wall=True, landlock_abi=abi
    )
    return Walls(abi, program)


def read_and_exit(reading: Reading, walls: Walls) -> NoReturn:
    """Put up the walls, read, answer, exit; returns in no case."""
    code = 70  # EX_SOFTWARE (sysexits.h)
    try:
        _answer(reading.answer_fd, _carry_out(reading, walls))
        code = 0
    finally:
        os._exit(code)


def _carry_out(reading: Reading, walls: Walls) -> dict[str, Any]:
    try:
        confine(reading, walls)
    except (OSError, ValueError) as exc:
        return {"failure": f"confinement: {exc}"}
    try:
        return _read(reading)
    except BuildError as exc:
        return {"error": str(exc)[:MAX_TEXT_CHARS]}
    except MemoryError:
        return {"error": _OUT_OF_MEMORY}
    except OSError as exc:
        return {"errno": exc.errno or errno.EIO}
    except Exception as exc:  # noqa: BLE001 - an edge: the server raises it again
        return {"failure": _told(exc)}


def _read(reading: Reading) -> dict[str, Any]:
    with open(reading.archive_fd, "rb", closefd=False) as archive:
        if reading.folder_fd is None:
            return {"is_tar_gz": is_tar_gz(archive)}
        names = unpack_archive(archive, reading.folder_fd, reading.limits)
    root = find_root(names)
    files = [name.removeprefix(f"{root}/") for name in names] if root else list(names)
    manifest = load_manifest(_manifest_text(reading.folder_fd, root), files)
    return {"unpacked": {"files": files, "root": root, "manifest": asdict(manifest)}}


def _manifest_text(folder: int, root: str) -> bytes:
    """Return the manifest, or as much of one as shows that it is too long."""
    root_fd = os.open(root or ".", _FOLDER_FLAGS, dir_fd=folder)
    try:
        fd = os.open(MANIFEST_NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root_fd)
    finally:
        os.close(root_fd)
    with open(fd, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _told(exc: Exception) -> str:
    """Say what happened and where, without the source files, which are out of reach."""
    place = exc.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "nowhere"
    return f"{type(exc).__name__}: {exc} ({where})"[:MAX_TEXT_CHARS]


def _answer(fd: int, document: dict[str, Any]) -> None:
    with open(fd, "wb", closefd=False) as stream:
        stream.write(json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace"))


# --- walls ---


def confine(reading: Reading, walls: Walls) -> None:
    """Give up all but the three descriptors and what is below the folder. Raises OSError.

    The order matters: root's rights go first; who changes its user loses the tie to its parent
    (prctl(2), PR_SET_PDEATHSIG); no_new_privs comes before what needs it; the filter of system
    calls, which forbids most of this, comes last.
    """
    _keep_descriptors(reading)
    os.setsid()
    posix.leave_root()
    posix.die_with_parent(reading.guard_pid)
    _limit_resources(reading)
    if posix.IS_LINUX:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_DUMPABLE, 0)
    if reading.folder_fd is not None:
        os.fchdir(reading.folder_fd)
    if walls.landlock_abi:
        writable = ["."] if reading.folder_fd is not None else []
        linux_landlock.restrict(readable=(), writable=writable, abi=walls.landlock_abi)
    if walls.system_calls is not None:
        linux_seccomp.install(walls.system_calls, os.getpid())


def _keep_descriptors(reading: Reading) -> None:
    """Close all but the reading's own; the standard streams lead nowhere."""
    os.dup2(1, 2)  # the server started the reader with its output on the null device
    kept = [reading.answer_fd, reading.archive_fd, reading.folder_fd]
    posix.close_all_but([fd for fd in kept if fd is not None], first=3)


def _limit_resources(reading: Reading) -> None:
    # With this mask new files and folders get the modes they should have without a chmod.
    os.umask(0o022)
    cpu = reading.cpu_seconds
    for which, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, reading.limits.max_bytes, reading.limits.max_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_DATA, _DATA_BYTES, _DATA_BYTES),
        (resource.RLIMIT_NPROC, 0, 0),  # whoever is not root has one process already: this one
        # The soft limit sends SIGXCPU, which tells a CPU limit from a kill; the hard one SIGKILL.
        (resource.RLIMIT_CPU, cpu, cpu + 1),
    ):
        posix.limit(which, soft, hard)
