"""Control groups (cgroups(7), version 2): memory and processes of a whole run counted together.

Runs in the server. Only where the operator hands the server's own group over to it, as systemd does
with `Delegate=yes`; that most machines do not is normal. The server moves into a group below its
own, since a group that limits others may hold no process, and makes one group for each run.
"""

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import ClassVar

from anymind_lite.sandbox.policy import Limits

_CONTROLLERS = ("memory", "pids")
_SERVER_GROUP = "anymind-server"
_RUN_PREFIX = "anymind-run-"
_DELEGATED = ("user.delegate", "trusted.delegate")  # systemd's marks (CGROUP_DELEGATION.md)
_EMPTYING_SECONDS = 2.0
_PAUSE_SECONDS = 0.001


class NotDelegated(Exception):
    """There are no groups to be had; the text says why."""


class Cgroups:
    """Makes groups below one folder of the file system of cgroups, which is the server's alone."""

    _taken: ClassVar[set[Path]] = set()  # by this process

    def __init__(self, top: Path) -> None:
        self._top = top

    @classmethod
    def take(cls) -> "Cgroups":
        """Take over the group that this process is in. Raises NotDelegated."""
        own = _find_own_group()
        if own.parent in cls._taken:
            return cls(own.parent)
        _refuse_what_is_not_ours(own)
        try:
            group = own / _SERVER_GROUP
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text("0", encoding="ascii")
            wanted = " ".join(f"+{name}" for name in _CONTROLLERS)
            (own / "cgroup.subtree_control").write_text(wanted, encoding="ascii")
        except OSError as exc:
            with contextlib.suppress(OSError):
                (own / "cgroup.procs").write_text("0", encoding="ascii")
            raise NotDelegated(f"{own} cannot be divided ({exc.strerror})") from exc
        cls._taken.add(own)
        return cls(own)

    def remove_old_runs(self) -> None:
        """Remove the groups of a server that was killed; what is still in them is killed too."""
        for path in self._top.glob(f"{_RUN_PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_group(path)

    def new_run(self, limits: Limits) -> "RunCgroup":
        """Make the group of one run. Raises OSError."""
        path = self._top / f"{_RUN_PREFIX}{secrets.token_hex(8)}"
        path.mkdir()
        try:
            return RunCgroup(path, limits)
        except OSError:
            path.rmdir()
            raise


class RunCgroup:
    """The group of one run, with its limits; `procs_fd` is what the run joins it by."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._write("memory.max", str(limits.run_bytes))
        if (path / "memory.swap.max").exists():  # a kernel may count no swap
            self._write("memory.swap.max", "0")
        self._write("memory.oom.group", "1")
        self._write("pids.max", str(limits.processes))
        self.procs_fd = os.open(path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def _write(self, name: str, value: str) -> None:
        (self._path / name).write_text(value, encoding="ascii")

    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel has killed the run for its memory."""
        words = (self._path / "memory.events").read_text(encoding="ascii").split()
        counts = dict(zip(words[::2], words[1::2], strict=True))
        return counts.get("oom_kill", "0") != "0"

    def remove(self) -> None:
        """Kill whatever is in the group and remove it. Raises OSError when that fails."""
        os.close(self.procs_fd)
        _remove_group(self._path)


def _find_own_group() -> Path:
    """Return the folder of this process's group. Raises NotDelegated."""
    path = mount = None
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):
                path = line.removeprefix("0::/")
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                mount = Path(fields.split()[4])
    if path is None or mount is None:
        raise NotDelegated("the machine has no cgroups of version 2")
    return mount / path


def _refuse_what_is_not_ours(own: Path) -> None:
    """Raise NotDelegated for a group that is not handed over to this server alone."""
    try:
        offered = (own / "cgroup.controllers").read_text(encoding="ascii").split()
        processes = (own / "cgroup.procs").read_text(encoding="ascii").split()
    except OSError as exc:
        raise NotDelegated(f"{own} cannot be read ({exc.strerror})") from exc
    missing = [name for name in _CONTROLLERS if name not in offered]
    if missing:
        raise NotDelegated(f"{own} offers no {' and no '.join(missing)} controller")
    if not (own / "cgroup.type").exists():
        raise NotDelegated("this process is in the machine's topmost group")
    if not _is_handed_over(own):
        raise NotDelegated(f"{own} is not delegated to this server")
    if processes != [str(os.getpid())]:
        raise NotDelegated(f"other processes are in {own}")


def _is_handed_over(own: Path) -> bool:
    if not os.access(own, os.W_OK) or not os.access(own / "cgroup.procs", os.W_OK):
        return False
    if os.geteuid() != 0:
        return own.stat().st_uid == os.geteuid()
    # Root may write everywhere: ask whether its owner minds, who is systemd or a container.
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(own, name) == b"1":
                return True
    return own.is_mount()


def _remove_group(path: Path) -> None:
    deadline = time.monotonic() + _EMPTYING_SECONDS
    while True:
        with contextlib.suppress(OSError):  # since Linux 5.14; the zygote has killed all before
            (path / "cgroup.kill").write_text("1", encoding="ascii")
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
