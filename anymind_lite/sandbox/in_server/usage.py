"""What the kernel says of a process, whoever's it is. Runs in the server."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Threads and memory of a process (proc(5)); shared memory counts once it was touched."""

    threads: int
    private_bytes: int
    shared_bytes: int


def usage_of(pidfd: int) -> Usage | None:
    """Return what a process uses, None when it is gone or this system does not tell."""
    try:
        pid = _field(Path(f"/proc/self/fdinfo/{pidfd}"), "Pid")
        status = Path(f"/proc/{pid}/status")
        return Usage(
            threads=_field(status, "Threads"),
            private_bytes=_field(status, "RssAnon") * 1024,
            shared_bytes=_field(status, "RssShmem") * 1024,
        )
    except (OSError, LookupError, ValueError):
        return None


def _field(path: Path, name: str) -> int:
    with open(path, "rb") as file:
        for line in file:
            key, _, value = line.partition(b":")
            if key == os.fsencode(name):
                return int(value.split()[0])
    raise LookupError(name)
