"""What no hostile agent may read, change or reach: files, IPC objects, listening sockets.

Made by the test's own process, outside of the server. Everything here is open to every user of the
machine, so that only the sandbox stands between it and an agent.
"""

import ctypes
import hashlib
import secrets
import select
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live_server import ROOT

CANARY_KEYS = 0x414E0000  # the low half is random: other tests may run beside these
_IPC_CREAT, _IPC_RMID = 0o1000, 0
_SIZE = 4096
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.shmdt.argtypes = [ctypes.c_void_p]


@dataclass(frozen=True)
class CanaryFile:
    """A file with a text of its own, as it was made."""

    path: Path
    text: str
    look: tuple[int, int, int, int]

    def complaints(self) -> list[str]:
        """Return what has become of it."""
        try:
            is_same = self.path.read_text(encoding="utf-8") == self.text
            look = _look(self.path)
        except (OSError, UnicodeError) as exc:
            return [f"{self.path} cannot be read any more: {exc}"]
        if not is_same or look != self.look:
            return [f"{self.path} was changed"]
        return []

    def fact(self) -> list[str]:
        return [str(self.path), hashlib.sha256(self.text.encode()).hexdigest()]


def _look(path: Path) -> tuple[int, int, int, int]:
    info = path.stat()
    return info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns


@contextmanager
def canary_file(path: Path) -> Iterator[CanaryFile]:
    """Write a file for everyone to read and write, and remove it in the end."""
    text = f"canary {secrets.token_hex(16)}"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o666)
    try:
        yield CanaryFile(path, text, _look(path))
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def shared_memory(text: str) -> Iterator[tuple[int, int]]:
    """Make a SysV segment that holds a text, open to everyone; yield its key and its id."""
    key = CANARY_KEYS | secrets.randbelow(0xFFFF)
    number = _libc.shmget(key, _SIZE, _IPC_CREAT | 0o666)
    if number < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    address = _libc.shmat(number, None, 0)
    ctypes.memmove(address, text.encode(), len(text))
    _libc.shmdt(address)
    try:
        yield key, number
    finally:
        _libc.shmctl(number, _IPC_RMID, None)


def _read_shared_memory(number: int, length: int) -> str:
    address = _libc.shmat(number, None, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return "gone"
    try:
        return ctypes.string_at(address, length).decode("utf-8", "replace")
    finally:
        _libc.shmdt(address)


class Listeners:
    """Sockets that nobody should reach; nothing answers on them, the kernel keeps who came."""

    def __init__(self, folder: Path) -> None:
        self._sockets: list[socket.socket] = []
        self.tcp = self._bind(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.udp = self._bind(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        name = f"canary-{secrets.token_hex(8)}"
        self.abstract = self._bind(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}")
        self.abstract_datagram = self._bind(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}-dgram")
        self.named = self._bind(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket"))
        (folder / "socket").chmod(0o777)

    def _bind(self, family: int, kind: int, address: Any) -> Any:
        one = socket.socket(family, kind)
        self._sockets.append(one)
        one.bind(address)
        if kind == socket.SOCK_STREAM:
            one.listen(8)
        return one.getsockname()

    def complaints(self) -> list[str]:
        """Return who came; they are let go."""
        found = []
        for one in select.select(self._sockets, [], [], 0)[0]:
            found.append(f"the listener at {one.getsockname()!r} was reached")
            _let_go(one)
        return found

    def facts(self) -> dict[str, Any]:
        return {
            "tcp_port": self.tcp[1],
            "udp_port": self.udp[1],
            "abstract": self.abstract[1:].decode(),
            "abstract_datagram": self.abstract_datagram[1:].decode(),
            "socket_path": self.named,
        }

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _let_go(one: socket.socket) -> None:
    if one.type == socket.SOCK_DGRAM:
        one.recv(_SIZE)
    else:
        one.accept()[0].close()


class Canaries:
    """All of them, between `with` and its end."""

    def __init__(self, data: Path) -> None:
        self._stack = ExitStack()
        self._data = data

    def __enter__(self) -> "Canaries":
        with self._stack:
            self.folder = Path(tempfile.mkdtemp(prefix="canary-", dir="/tmp"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.chmod(0o777)
            self._make()
            self._stack = self._stack.pop_all()
        return self

    def _make(self) -> None:
        token = secrets.token_hex(8)
        paths = [
            self.folder / "public.txt",
            self._data / "canary.txt",
            ROOT / f".canary-{token}",
            Path("/dev/shm", f"canary-{token}"),
        ]
        self.files = [self._stack.enter_context(canary_file(path)) for path in paths]
        self.shared_text = f"canary {secrets.token_hex(16)}"
        self.shm = self._stack.enter_context(shared_memory(self.shared_text))
        self.listeners = Listeners(self.folder)
        self._stack.callback(self.listeners.close)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def texts(self) -> list[str]:
        """What nobody may read."""
        return [*(one.text for one in self.files), self.shared_text]

    def facts(self) -> dict[str, Any]:
        """Return where everything is, as an attacker would dream of."""
        return {
            "canaries": [one.fact() for one in self.files],
            "public_dir": str(self.folder),
            "dev_shm": str(self.files[3].path),
            "shm_key": self.shm[0],
            "shm_id": self.shm[1],
            **self.listeners.facts(),
        }

    def complaints(self) -> list[str]:
        """Return everything that has changed or was reached."""
        found = [text for one in self.files for text in one.complaints()]
        found += self.listeners.complaints()
        if _read_shared_memory(self.shm[1], len(self.shared_text)) != self.shared_text:
            found.append("the SysV segment was changed")
        strangers = {path.name for path in self.folder.iterdir()} - {"public.txt", "socket"}
        return found + [f"{name} was put beside a canary" for name in sorted(strangers)]
