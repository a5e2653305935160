"""What a case leaves behind, seen from outside."""

import hashlib
import http.client
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.agents.canaries import CANARY_KEYS
from tests.live_server import ROOT, Api
from tests.processes import children, descendants, parent_of, pids_with_argument

# Agents put this, or the mark that their payload holds, into every name they make.
PREFIX = "hostile-"
SETTLING_SECONDS = 10.0
SLOWEST_HEALTH_SECONDS = 2.0
_PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev/mqueue"), ROOT, Path.home())


class HealthWatch:
    """Asks for /health all the time; keeps the slowest answer."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._asked_at: float | None = None
        self._slowest = 0.0
        self._bad = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(0.02):
            self._asked_at = started = time.monotonic()
            try:
                answer = self._api.call("GET", "/health")
                if answer.status != 200:
                    self._bad = f"/health answered {answer.status}"
            except (OSError, http.client.HTTPException) as exc:
                self._bad = f"/health: {exc}"
            self._slowest = max(self._slowest, time.monotonic() - started)
            self._asked_at = None

    def reset(self) -> None:
        self._slowest, self._bad = 0.0, ""

    def complaints(self) -> list[str]:
        asked_at = self._asked_at
        waiting = 0.0 if asked_at is None else time.monotonic() - asked_at
        slowest = max(self._slowest, waiting)
        found = [self._bad] if self._bad else []
        if slowest > SLOWEST_HEALTH_SECONDS:
            found.append(f"/health took {slowest:.1f} s")
        return found


@dataclass(frozen=True)
class View:
    """What was there before a case: nothing of it may be gone and nothing may be added."""

    processes: frozenset[int]
    descriptors: int
    zygote_descriptors: int
    layout: frozenset[str]
    ipc: frozenset[str]
    names: frozenset[str]


def count_descriptors(pid: int) -> int:
    """Return how many descriptors the server has, but those of its databases: each of its threads
    opens one of its own when it is first asked something.
    """
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += "sqlite3" not in os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue  # closed meanwhile
    return count


def is_clone(pid: int, processes: frozenset[int]) -> bool:
    """Tell whether a process is in a session of a sibling: only clones of templates are."""
    session = session_of(pid)
    return session != pid and session in processes and parent_of(session) == parent_of(pid)


def session_of(pid: int) -> int:
    """Return the session of a process, 0 if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def find_zygote(server_pid: int) -> int:
    """Return the process that forks the runs: the stub itself, or process 1 of its namespace."""
    forks = descendants(server_pid) & pids_with_argument("/stub.py ")
    depths = {pid: _pids_in_namespaces(pid) for pid in forks}
    inits = [pid for pid, pids in depths.items() if len(pids) > 1 and pids[-1] == 1]
    return min(inits or forks, key=lambda pid: len(depths[pid]))


def _pids_in_namespaces(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in text.splitlines() if line.startswith("NSpid:"))
    return [int(word) for word in line.split()[1:]]


def take_view(server_pid: int, zygote_pid: int, data: Path) -> View:
    """Look at an idle server; what comes and goes with a request for /health is not counted."""
    samples = []
    for _ in range(20):
        samples.append(count_descriptors(server_pid))
        time.sleep(0.005)  # the samples are to differ, nothing is waited for
    processes = frozenset(descendants(server_pid))
    spares = {pid for pid in processes if is_clone(pid, processes)}
    return View(
        processes=processes - spares - readers_of(server_pid),
        descriptors=min(samples),
        zygote_descriptors=count_descriptors(zygote_pid),
        layout=frozenset(layout(data)),
        ipc=frozenset(ipc_objects()),
        names=frozenset(names_left(data, PREFIX)),
    )


def readers_of(server_pid: int) -> set[int]:
    """Return the reader, if there is one: it comes with an upload, and goes when there are none."""
    return children(server_pid) & pids_with_argument("/in_reader.py ")


def layout(data: Path) -> set[str]:
    """Return the names in a data folder but those that grow with each upload."""
    found = set()
    for folder, names, files in os.walk(data):
        where = Path(folder).relative_to(data)
        if where.parts[:1] in (("code",), ("artifacts",)):
            continue
        found |= {str(where / name) for name in names}
        found |= {str(where / name) for name in files if ".sqlite3" not in name}
    return {name for name in found if not name.startswith("run/scratch/")}


def scratch_folders(data: Path) -> set[Path]:
    """Return the scratch folders on the host, which are tier B's."""
    try:
        return set((data / "run" / "scratch").iterdir())
    except FileNotFoundError:
        return set()


def ipc_objects() -> set[str]:
    """Return key, id and rights of every SysV object that this process sees, but of canaries."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        try:
            lines = Path("/proc/sysvipc", kind).read_text(encoding="ascii").splitlines()
        except OSError:
            continue  # a kernel without
        rows = [line.split()[:3] for line in lines[1:]]
        found |= {" ".join([kind, *row]) for row in rows if int(row[0]) & ~0xFFFF != CANARY_KEYS}
    return found


def names_left(data: Path, mark: str) -> set[str]:
    """Return the paths that hostile code gave a name: nothing of a run may stay anywhere."""
    found = set()
    for place in (*_PLACES, data, data / "artifacts", data / "run"):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        found |= {str(place / name) for name in names if PREFIX in name or mark in name}
    return found


def digest_of(folder: Path) -> str:
    """Return a hash of a tree: names, modes, contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mode:o}\n".encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def resident_kb(pid: int) -> int:
    """Return how much memory a process has in RAM."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))


def settled(look: Callable[[], list[str]], seconds: float = SETTLING_SECONDS) -> list[str]:
    """Return what is still to complain of after a while, as soon as it is nothing."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
