"""What the processes of the sandbox say to each other: jobs, frames, file descriptors.

A frame is a 4-byte big-endian length and that many bytes of UTF-8 JSON. Frames between server and
zygote are both sides' own; the one frame that a child reports is hostile and is read by
`in_server.outcome` alone.
"""

import array
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from anymind_lite.sandbox.policy import Limits, Tier

HEADER = struct.Struct(">I")
MAX_CONTROL_BYTES = 16384

# Received descriptors are closed on exec, as all of Python's own are; macOS has no such flag.
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

# What a child writes over the first byte of its job, a zero, when every layer stands and agent code
# is about to be run: what is reported after it is hostile, and what came before was ours.
_MARK = b"\x06"

# Where a child finds its descriptors after it has laid them out.
REPORT_FD = 3
JOB_FD = 4
CHANNEL_FD = 5  # of a template, to the zygote
SAFE_FD = 10  # what is kept for a while stands here or above, out of the way

# Agent code may have replaced what stands in modules when a clone of a template reads its job.
_loads, _read, _pwrite = json.loads, os.read, os.pwrite

# What a run sees in namespaces: its code, its scratch folder, its user. The server hands all code
# over at CODE_PARENT, which a child empties before agent code runs.
AGENT_DIR = "/agent"
SCRATCH_DIR = "/scratch/run"
CODE_PARENT = "/code"
INNER_UID = 1000
INNER_GID = 1000

# Whom a root server becomes in the sandbox. No user of the host: from a range that nothing hands
# out (systemd.io/UIDS-GIDS: 60706 to 61183 are unused), as `nobody` is shared with others.
SANDBOX_UID = 61000
SANDBOX_GID = 61000


def let_agents_pass(folder: Path | str) -> None:
    """Let the agents of a root server, who are another user, pass through a folder, not look.

    Without namespaces they come by here to one version's code and to one scratch folder. Everybody
    else stays out. The agents of any other server are its own user.
    """
    if os.geteuid() == 0:
        os.chown(folder, 0, SANDBOX_GID)
        os.chmod(folder, 0o710)  # noqa: S103 - for a group that has no other member
    else:
        os.chmod(folder, 0o700)


class Mode(StrEnum):
    """What a child is asked to do."""

    EXECUTE = "execute"  # import the entrypoint, call it with the payload, report the result
    VALIDATE = "validate"  # import the entrypoint, report whether it can be called
    TEMPLATE = "template"  # import the entrypoint, stay, and clone itself for every run
    PROBE = "probe"  # report which layers stand; no agent code


class ReportKind(StrEnum):
    """What a child says happened. It may lie; it can only lie about itself."""

    RETURNED = "returned"
    VALIDATED = "validated"
    UNFIT = "unfit"  # of a template: what was imported must not be cloned
    PROBED = "probed"
    EXCEPTION = "exception"
    IMPORT_FAILED = "import_failed"
    NOT_JSON = "not_json"
    OUTPUT_TOO_LARGE = "output_too_large"
    OUT_OF_MEMORY = "out_of_memory"
    EXITED = "exited"
    SANDBOX_FAILURE = "sandbox_failure"


@dataclass(frozen=True)
class Job:
    """What the sandbox is asked to do; it knows no users.

    `code_dir` is the agent's root folder, `entrypoint` is `module.path:function`. Both are empty
    for PROBE. `allows_processes` gives the run a pid namespace and an init of its own, for which
    there must be namespaces; without it the run is one process, which can start no other.
    """

    mode: Mode
    limits: Limits
    code_dir: str = ""
    entrypoint: str = ""
    allows_processes: bool = False


@dataclass(frozen=True)
class Places:
    """Where a child finds its folders; `code_name`, below CODE_PARENT, is for namespaces alone."""

    scratch_dir: str
    code_name: str = ""


class Need(StrEnum):
    """What a layer is made of, and is left out without."""

    NOTHING = "nothing"
    NAMESPACES = "namespaces"
    INIT = "init"  # namespaces, and a run that may start processes
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    CGROUP = "cgroup"


@dataclass(frozen=True)
class LayerFact:
    """One row of the table of layers, as it is on this machine."""

    name: str
    promise: str
    need: Need
    is_on: bool


@dataclass(frozen=True)
class Ground:
    """What the zygote stands on: the facts that the tiers rest on, found by trying.

    `zygote_pid` is as the server sees it. `refusals` tells why what is missing is missing, by need;
    `agent_uid` is the user that agents are on the host. `error` is a set-up that failed in no known
    way: then nothing may run.
    """

    zygote_pid: int
    has_namespaces: bool = False
    landlock_abi: int = 0
    filters_calls: bool = False
    has_cgroups: bool = False
    agent_uid: int = -1
    layers: tuple[LayerFact, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def tier(self) -> Tier:
        """The strongest tier that stands."""
        if self.filters_calls and self.has_namespaces:
            return Tier.A
        return Tier.B if self.filters_calls and self.landlock_abi else Tier.C

    @property
    def has_templates(self) -> bool:
        """Whether a version can be imported ahead: it takes both walls of tier A."""
        return self.tier is Tier.A

    def gives_init(self, job: Job) -> bool:
        """Tell whether a job gets an init: to start processes, or where nothing forbids it to."""
        return self.has_namespaces and (job.allows_processes or not self.filters_calls)

    def layer_names(self, job: Job) -> tuple[str, ...]:
        """Return which layers a job gets, in order."""
        has_init = self.gives_init(job)
        return tuple(
            one.name for one in self.layers if one.is_on and (has_init or one.need is not Need.INIT)
        )


def encode_ground(ground: Ground) -> dict[str, Any]:
    """Return a ground as a control message."""
    return asdict(ground)


def decode_ground(message: dict[str, Any]) -> Ground:
    """Read a ground from a control message."""
    layers = [LayerFact(**{**one, "need": Need(one["need"])}) for one in message["layers"]]
    return Ground(**{**message, "layers": tuple(layers)})


def encode_job(job: Job, places: Places, payload: bytes) -> bytes:
    """Write what a child reads: one frame with the job, then the payload's JSON to the end."""
    header = json.dumps({"job": asdict(job), "places": asdict(places)}).encode()
    return HEADER.pack(len(header)) + header + payload


def read_job(fd: int) -> tuple[Job, Places]:
    """Read the job and its folders from a descriptor, leaving it at the payload."""
    (length,) = HEADER.unpack(_read(fd, HEADER.size))
    message = _loads(_read_exactly(fd, length))
    fields = message["job"]
    fields["mode"] = Mode(fields["mode"])
    fields["limits"] = Limits(**fields["limits"])
    return Job(**fields), Places(**message["places"])


def mark_begun(fd: int) -> None:
    """Mark a job as begun: agent code comes next, and must not have the descriptor.

    Not a word in the report's pipe: without namespaces an agent can open its own again and take it
    back. (the attack "open again" of leakage/output-of-others)
    """
    _pwrite(fd, _MARK, 0)


def has_begun(fd: int) -> bool:
    """Tell whether the child has marked its job."""
    return os.pread(fd, len(_MARK), 0) == _MARK


def withdraw_job(fd: int) -> bool:
    """Take back a job that nobody has read; return False when somebody has.

    A child reads through the same open file description: emptied first, and then found at its
    start, it has been read by nobody and will be by nobody (lseek(2) waits for a read that is
    under way).
    """
    os.ftruncate(fd, 0)
    return os.lseek(fd, 0, os.SEEK_CUR) == 0


def read_to_end(fd: int) -> bytes:
    """Read a descriptor up to its end."""
    chunks = []
    while chunk := _read(fd, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def _read_exactly(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = _read(fd, length - len(data))
        if not chunk:
            raise EOFError("the job ended early")
        data += chunk
    return data


def send_message(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one frame, the descriptors travelling with its first byte (unix(7), SCM_RIGHTS)."""
    body = json.dumps(message).encode()
    if len(body) > MAX_CONTROL_BYTES:
        raise ValueError("control message too large")
    data = HEADER.pack(len(body)) + body
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive_message(sock: socket.socket, max_fds: int = 5) -> tuple[dict[str, Any], list[int]]:
    """Receive one frame and its descriptors. Raises EOFError, and OSError.

    EOFError tells that the other end hung up, or is not to be listened to any more.
    """
    space = socket.CMSG_SPACE(max_fds * array.array("i").itemsize)
    header, ancillary, _flags, _address = sock.recvmsg(HEADER.size, space, _RECEIVE_FLAGS)
    fds = _received_fds(ancillary)
    try:
        header += _receive_exactly(sock, HEADER.size - len(header)) if header else b""
        if not header:
            raise EOFError("the other end hung up")
        (length,) = HEADER.unpack(header)
        if length > MAX_CONTROL_BYTES:
            raise EOFError("the other end spoke nonsense")
        message = _parse_message(_receive_exactly(sock, length))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds


def ask_to_end(lease: socket.socket, grace_seconds: float) -> None:
    """Say "end it": SIGTERM now, and the kill when the grace is over."""
    try:
        send_message(lease, {"grace_seconds": grace_seconds})
    except OSError:
        pass  # The other end has closed it, or the kill was asked for.


def hang_up(lease: socket.socket) -> None:
    """Say "kill it": end one's own half of a lease, over which the other end can still answer."""
    try:
        lease.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # The other end has closed it: it is over.


def _parse_message(text: bytes) -> dict[str, Any]:
    try:
        message = _loads(text)
    except (ValueError, RecursionError) as exc:
        raise EOFError("the other end spoke nonsense") from exc
    if not isinstance(message, dict):
        raise EOFError("the other end spoke nonsense")
    return message


def _received_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = sock.recv(length - len(data))
        if not chunk:
            raise EOFError("the other end hung up in the middle of a frame")
        data += chunk
    return data
