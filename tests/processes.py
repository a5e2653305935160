"""Looking at processes from outside, through /proc."""

import os
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Return the pids of all living descendants of a process; zombies are not living."""
    parents = dict(_parents())
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = {child for child, its_parent in parents.items() if its_parent == parent}
        found |= children
        waiting += children
    return found


def children(pid: int) -> set[int]:
    """Return the pids of a process's own living children."""
    return {child for child, parent in _parents() if parent == pid}


def pids_with_argument(argument: str) -> set[int]:
    """Return the pids of processes whose command line holds a text."""
    return {pid for pid, _parent in _parents() if argument in _command_line(pid)}


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    return any(pid == one for one, _parent in _parents())


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def open_descriptors() -> set[str]:
    """Return this process's descriptors but those of a server's database: another test's backend,
    alive in this process, opens one more whenever a thread of its own first asks it something.
    """
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the one that listed the folder
        if "anymind.sqlite3" not in target:
            found.add(fd)
    return found


def zombies(pid: int) -> set[int]:
    """Return the pids of a process's children that have ended and were not waited for."""
    return {child for child, parent in _parents(are_zombies=True) if parent == pid}


def parent_of(pid: int) -> int:
    """Return the parent of a process that lives, 0 if there is none."""
    return dict(_parents()).get(pid, 0)


def is_first_of_its_namespace(pid: int) -> bool:
    """Tell whether a process is number 1 to itself (proc(5), NSpid)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (numbers,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return numbers.split()[-1] == "1"


def only(pids: set[int], what: str) -> int:
    """Return the one pid there is to be."""
    assert len(pids) == 1, f"{what}: {pids}"
    return pids.pop()


def children_by_script(pid: int, script: str) -> set[int]:
    """Return the children that were started to run a script of ours."""
    return children(pid) & pids_with_argument(f"/{script} ")


def find_zygote(stub: int) -> int | None:
    """Return the process below the stub that is number 1 of the sandbox's namespace."""
    return next(filter(is_first_of_its_namespace, children(stub)), None)


def _parents(*, are_zombies: bool = False) -> list[tuple[int, int]]:
    rows = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if (fields[0] == b"Z") == are_zombies:
            rows.append((int(name), int(fields[1])))
    return rows


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
