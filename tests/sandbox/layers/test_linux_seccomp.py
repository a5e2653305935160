"""What the filter refuses, what it lets pass, and that without it the same attempts go through."""

import asyncio
import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_child.layers import (
    linux_bpf,
    linux_calls,
    linux_seccomp,
    linux_syscalls,
)
from tests.sandbox.layers.children import (
    COLUMN,
    NOBODY,
    Identity,
    call,
    call_number,
    error_of,
    exists,
    missing,
    nothing,
)
from tests.sandbox.layers.ordinary_python import EVERYDAY

KINDS: dict[str, dict[str, Any]] = {
    "default": {"allows_processes": False, "has_own_pids": False, "is_only_wall": False},
    "only_wall": {"allows_processes": False, "has_own_pids": False, "is_only_wall": True},
    "own_pids": {"allows_processes": True, "has_own_pids": True, "is_only_wall": False},
    "shared_pids": {"allows_processes": True, "has_own_pids": False, "is_only_wall": True},
}
PROGRAMS: dict[str, linux_bpf.Program] = {}
IS_ROOT = os.geteuid() == 0


def seccomp(kind: str, **more: Any) -> Callable[[], None]:
    """Return the layer, its filter built once as the zygote does."""
    key = f"{kind} {more}"
    if key not in PROGRAMS:
        PROGRAMS[key] = linux_seccomp.build_filter(**{**KINDS[kind], **more})
    return lambda: linux_seccomp.install(PROGRAMS[key], os.getpid())


@pytest.fixture(autouse=True)
def _needs_seccomp() -> None:
    if sys.platform != "linux" or COLUMN is None:
        missing("seccomp on x86-64 or aarch64")


# --- the table of numbers ---------------------------------------------------------------------

HEADERS = (
    ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0),
    ("/usr/include/asm/unistd_64.h", 0),
    ("/usr/include/asm-generic/unistd.h", 1),
)


@pytest.mark.parametrize(("header", "column"), HEADERS)
def test_numbers_are_the_kernels_own(header: str, column: int) -> None:
    if not Path(header).exists():
        pytest.skip("these headers are not installed")
    text = Path(header).read_text(encoding="utf-8")
    pattern = r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$"
    theirs = {name: int(number) for name, number in re.findall(pattern, text, re.MULTILINE)}
    newest = max(theirs.values())
    for name, numbers in linux_syscalls.NUMBERS.items():
        number = numbers[column]
        if number is None or number <= newest:
            assert theirs.get(name) == number, name


def test_no_number_is_named_twice_or_above_the_highest() -> None:
    for column in (0, 1):
        numbers = [both[column] for both in linux_syscalls.NUMBERS.values()]
        known = [number for number in numbers if number is not None]
        assert len(known) == len(set(known))
        assert max(known) <= linux_syscalls.HIGHEST


def test_new_calls_have_one_number_everywhere() -> None:
    for name, (x86_64, aarch64) in linux_syscalls.NUMBERS.items():
        assert max(x86_64 or 0, aarch64 or 0) < 424 or x86_64 == aarch64, name


# --- what is refused --------------------------------------------------------------------------

REFUSED = {
    "EPERM": """
        ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
        migrate_pages move_pages bind listen accept accept4 connect
        shmget shmat shmctl shmdt semget semop semctl semtimedop msgsnd msgrcv msgctl
        mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
        memfd_create memfd_secret userfaultfd add_key request_key keyctl
        mount umount2 pivot_root chroot unshare setns
        fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr
        bpf perf_event_open personality modify_ldt
        fanotify_init fanotify_mark open_by_handle_at name_to_handle_at lookup_dcookie
        init_module finit_module delete_module kexec_load kexec_file_load reboot
        swapon swapoff acct quotactl quotactl_fd syslog iopl ioperm uselib
        settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
        tkill rt_sigqueueinfo rt_tgsigqueueinfo
    """,
    "EACCES": "socket socketpair",
    "ENOSYS": """
        clone3 seccomp pidfd_open pidfd_send_signal pidfd_getfd
        io_uring_setup io_uring_enter io_uring_register
        statmount listmount open_tree_attr lsm_set_self_attr
    """,
}
REFUSED_BESIDE_LANDLOCK = {
    "EPERM": "chown fchown lchown fchownat file_setattr",
    "ENOTSUP": """
        setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat
        listxattr llistxattr flistxattr listxattrat
        removexattr lremovexattr fremovexattr removexattrat
    """,
    "ENOSYS": "inotify_init inotify_init1 inotify_add_watch openat2",
    "": "chmod fchmod fchmodat fchmodat2 utime utimes futimesat utimensat",
}
# With nonsense for arguments nothing of this does anything, with the filter or without.
NONSENSE = (-1,) * 6
# Nonsense is no obstacle to these, so they are tried under the filter alone.
NEVER_WITHOUT = " msgget vhangup"


def results_of(names: list[str]) -> dict[str, str]:
    return {name: call(name, *NONSENSE) for name in names}


def existing(names: str) -> list[str]:
    return [name for name in names.split() if exists(name)]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_refused_whatever_their_arguments(who: Identity, kind: str) -> None:
    for error, names in REFUSED.items():
        wanted = existing(names + (NEVER_WITHOUT if error == "EPERM" else ""))
        if kind == "own_pids":  # there everybody in sight is of the same run
            wanted = [name for name in wanted if "tkill" not in name and "queueinfo" not in name]
        results = who.run(partial(results_of, wanted), layer=seccomp(kind))
        assert results == dict.fromkeys(wanted, error)


@pytest.mark.parametrize("kind", ["only_wall", "shared_pids"])
def test_only_wall_refuses_what_landlock_does_not_see(who: Identity, kind: str) -> None:
    for error, names in REFUSED_BESIDE_LANDLOCK.items():
        wanted = existing(names)
        results = who.run(partial(results_of, wanted), layer=seccomp(kind))
        expected = errno.errorcode[errno.ENOTSUP] if error == "ENOTSUP" else error
        assert results == dict.fromkeys(wanted, expected)


@pytest.mark.skipif(not IS_ROOT, reason="to others the kernel itself refuses many of these")
def test_without_the_filter_the_kernel_would_look_at_them() -> None:
    root = Identity(None)
    same = set()
    count = 0
    for error, names in (*REFUSED.items(), *REFUSED_BESIDE_LANDLOCK.items()):
        wanted = existing(names)
        results = root.run(partial(results_of, wanted))
        same |= {name for name in wanted if results[name] == error}
        count += len(wanted)
    # What this kernel was built without, or this root (of a container) may not.
    assert len(same) < count / 3, same


def test_calls_newer_than_all_known_do_not_exist(who: Identity) -> None:
    numbers = [linux_syscalls.HIGHEST + 1, linux_syscalls.HIGHEST + 2, 600, 1000, 0x3FFFFFFF]
    results = who.run(lambda: [call_number(n) for n in numbers], layer=seccomp("default"))
    assert results == ["ENOSYS"] * len(numbers)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86-64")
@pytest.mark.parametrize("number", [0x40000000, 0x40000027, 0x7FFFFFFF])
def test_x32_calls_kill(who: Identity, number: int) -> None:
    assert killed_by(who, lambda: call_number(number), seccomp("default")) == signal.SIGSYS
    assert killed_by(who, lambda: call_number(number), nothing) == 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int 0x80 is of x86-64")
def test_32_bit_calls_kill(who: Identity) -> None:
    assert killed_by(who, call_as_32_bit, seccomp("default")) == signal.SIGSYS
    if killed_by(who, call_as_32_bit, nothing) != 0:
        pytest.skip("this kernel takes no 32-bit calls")


def call_as_32_bit() -> None:
    """Ask for the pid as i386 does: mov eax, 20; int 0x80; ret."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def killed_by(who: Identity, attempt: Callable[[], Any], layer: Callable[[], None]) -> int:
    """Return the signal that ended the child, 0 for none."""

    def attempt_in_its_own_child() -> int:
        pid = os.fork()
        if pid == 0:
            layer()
            attempt()
            os._exit(0)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])

    return int(who.run(attempt_in_its_own_child))


# --- processes and threads --------------------------------------------------------------------

CLONE_VM_FS_FILES_SIGHAND_THREAD = 0x00010F00


def raw_clone(flags: int) -> str:
    # A thread without CLONE_VM is invalid, so these make nothing where the filter lets them pass.
    return call("clone", flags, 0, 0, 0, 0)


def new_processes() -> dict[str, str]:
    return {
        "fork": error_of(os.fork) if not exists("fork") else call("fork"),
        "clone": raw_clone(signal.SIGCHLD),
        "clone of namespaces": raw_clone(0x10000000 | signal.SIGCHLD),
        "execve": error_of(lambda: os.execv("/bin/true", ["true"])),
        "execveat": call("execveat", -100, 0, 0, 0, 0),
        "posix_spawn": error_of(lambda: os.posix_spawn("/bin/true", ["true"], {})),
        "subprocess": error_of(lambda: subprocess.run(["/bin/true"], check=True)),
        "vfork": error_of(lambda: subprocess.run(["/bin/true"], check=True, close_fds=False)),
        "system": "EPERM" if os.system("true") != 0 else "",
    }


@pytest.mark.parametrize("kind", ["default", "only_wall"])
def test_no_process_can_be_made(who: Identity, kind: str) -> None:
    results = who.run(new_processes, layer=seccomp(kind))
    assert results == dict.fromkeys(results, "EPERM")


@pytest.mark.parametrize("kind", ["own_pids", "shared_pids"])
def test_processes_can_be_made_where_allowed(who: Identity, kind: str) -> None:
    def attempt() -> list[Any]:
        ran = subprocess.run(["/bin/echo", "hi"], capture_output=True, text=True, check=True)
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        return [ran.stdout, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]

    assert who.run(attempt, layer=seccomp(kind)) == ["hi\n", 3]


# linux/sched.h, all but CLONE_NEWTIME, which clone(2) does not know.
NEW_NAMESPACES = (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)


@pytest.mark.parametrize("kind", KINDS)
def test_no_namespace_can_be_made(who: Identity, kind: str) -> None:
    def attempt() -> list[str]:
        flags = [*NEW_NAMESPACES, *(CLONE_VM_FS_FILES_SIGHAND_THREAD | n for n in NEW_NAMESPACES)]
        return [raw_clone(flag) for flag in flags] + [call("unshare", n) for n in NEW_NAMESPACES]

    assert set(who.run(attempt, layer=seccomp(kind))) == {"EPERM"}


def test_asyncio_says_that_it_may_not_start_a_process(who: Identity) -> None:
    async def start() -> None:
        await asyncio.create_subprocess_exec("/bin/true")

    def attempt() -> str:
        return error_of(lambda: asyncio.run(start()))

    assert who.run(attempt, layer=seccomp("default")) == "EPERM"


# --- signals and other processes --------------------------------------------------------------


class Neighbour:
    """A process of the same user, in the same pid namespace; it waits to be killed."""

    def __enter__(self) -> int:
        readable, writable = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.write(writable, b"x")
            while True:
                signal.pause()
        os.read(readable, 1)
        os.close(readable)
        os.close(writable)
        return self.pid

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def acts_on(pid: int) -> dict[str, str]:
    """Reach for a process in every way that names it by its pid; no signal ends it."""
    return {
        "kill": call("kill", pid, signal.SIGURG),
        "kill of its group": call("kill", -pid, signal.SIGURG),
        "existence": call("kill", pid, 0),
        "tgkill": call("tgkill", pid, pid, signal.SIGURG),
        "tkill": call("tkill", pid, signal.SIGURG),
        "prlimit64": call("prlimit64", pid, 7, 0, 0),
        "setpriority": call("setpriority", 0, pid, 19),
        "setpriority of its group": call("setpriority", 1, pid, 19),
        "getpriority of its user": call("getpriority", 2, os.getuid()),
        "getpriority": call("getpriority", 0, pid),
        "ioprio_set": call("ioprio_set", 1, pid, 3 << 13),
        "sched_setaffinity": error_of(lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0))),
        "sched_setscheduler": error_of(
            lambda: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        ),
        "sched_getscheduler": error_of(lambda: os.sched_getscheduler(pid)),
        "getpgid": error_of(lambda: os.getpgid(pid)),
        "getsid": error_of(lambda: os.getsid(pid)),
    }


@pytest.mark.parametrize("kind", ["default", "only_wall", "shared_pids"])
def test_neighbours_are_out_of_reach(who: Identity, kind: str) -> None:
    with Neighbour() as pid:

        def attempt() -> dict[str, str]:
            results = acts_on(pid)
            results["sched_getaffinity"] = error_of(lambda: os.sched_getaffinity(pid))
            results["cpu time"] = error_of(lambda: time.clock_gettime(cpu_clock_of(pid)))
            return results

        results = who.run(attempt, layer=seccomp(kind))
        odd = {"cpu time": "EINVAL", "sched_getaffinity": "ENOSYS"}
        # The affinity is asked for before it is set, by oneself, which is allowed.
        assert results == {**dict.fromkeys(results, "EPERM"), **odd}
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)


def test_without_the_filter_neighbours_are_in_reach() -> None:
    with Neighbour() as pid:
        results = Identity(None).run(lambda: acts_on(pid))
        assert results == dict.fromkeys(results, "")
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert Identity(None).run(lambda: time.clock_gettime(cpu_clock_of(pid))) >= 0


def cpu_clock_of(pid: int) -> int:
    """Return clock_getcpuclockid(3) without its own question whether that is allowed."""
    return ~pid << 3 | 2


@pytest.mark.parametrize("kind", ["default", "only_wall", "shared_pids"])
def test_groups_and_everybody_cannot_be_signalled(who: Identity, kind: str) -> None:
    def attempt() -> list[str]:
        return [call("kill", pid, 0) for pid in (0, -1, -os.getpid(), 1, os.getppid())]

    assert who.run(attempt, layer=seccomp(kind)) == ["EPERM"] * 5


def test_signals_go_anywhere_within_own_pids(who: Identity) -> None:
    def attempt() -> list[str]:
        with Neighbour() as pid:
            return [call("kill", pid, 0), call("kill", -pid, 0), call("tgkill", pid, pid, 0)]

    assert who.run(attempt, layer=seccomp("own_pids")) == ["", "", ""]


@pytest.mark.parametrize("kind", ["default", "only_wall", "own_pids"])
def test_garbage_in_the_high_half_of_an_argument_changes_nothing(who: Identity, kind: str) -> None:
    garbage = 0x5A5A5A5A << 32

    def attempt() -> list[str]:
        reader, _writer = os.pipe()
        return [
            call("kill", garbage | os.getpid(), 0),
            call("kill", os.getpid() - (1 << 32), 0),
            call("prctl", garbage | linux_calls.PR_SET_DUMPABLE, 1, 0, 0, 0),
            call("ioctl", reader, garbage | 0x5412, 0),
            call("fcntl", reader, garbage | fcntl.F_NOTIFY, 0),
            call("socketpair", garbage | 1, 2, 0, 0),
            call("clone", garbage | 1 << 28, 0, 0, 0, 0),
        ]

    results = who.run(attempt, layer=seccomp(kind))
    assert results == ["", "", "EPERM", "EPERM", "EPERM", "EACCES", "EPERM"]


def steal_by_sigio(pid: int) -> dict[str, str]:
    """Have the kernel send a neighbour a signal of choice, in every way there is."""
    left, _right = socket.socketpair()
    reader, _writer = os.pipe()
    owner = ctypes.c_int(pid)
    group = ctypes.c_int(-pid)
    owner_and_kind = (ctypes.c_int * 2)(1, pid)
    return {
        "F_SETOWN": call("fcntl", reader, 8, pid),
        "F_SETOWN of its group": call("fcntl", reader, 8, -pid),
        "F_SETOWN_EX": call("fcntl", reader, 15, ctypes.byref(owner_and_kind)),
        "F_SETSIG": call("fcntl", reader, 10, signal.SIGKILL),
        "FIOSETOWN": call("ioctl", left.fileno(), 0x8901, ctypes.byref(owner)),
        "SIOCSPGRP": call("ioctl", left.fileno(), 0x8902, ctypes.byref(group)),
        "FIOASYNC": call("ioctl", left.fileno(), 0x5452, ctypes.byref(owner)),
    }


@pytest.mark.parametrize("kind", ["default", "only_wall", "shared_pids"])
def test_sigio_cannot_be_aimed_at_a_neighbour(who: Identity, kind: str) -> None:
    with Neighbour() as pid:
        results = who.run(lambda: steal_by_sigio(pid), layer=seccomp(kind))
        assert results == dict.fromkeys(results, "EPERM")
        results = who.run(lambda: steal_by_sigio(pid))
        assert results == dict.fromkeys(results, "")


def test_without_the_filter_sigio_kills_a_neighbour_even_from_another_user_namespace() -> None:
    """Why F_SETOWN is refused wherever pids are shared: the kernel compares host uids."""

    def attempt(pid: int) -> str:
        refusal = call("unshare", 1 << 28)
        reader, writer = os.pipe()
        fcntl.fcntl(reader, 8, pid)
        fcntl.fcntl(reader, 10, signal.SIGKILL)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writer, b"x")
        return refusal

    # As somebody else than root, to whom user namespaces would not matter.
    who = Identity(NOBODY if IS_ROOT else None)

    def kill_a_neighbour() -> list[Any]:
        with Neighbour() as pid:
            refusal = Identity(None).run(partial(attempt, pid))
            if refusal:
                return [refusal, 0]
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return [refusal, ended.si_status if ended else 0]

    refusal, ended_by = who.run(kill_a_neighbour)
    if refusal:
        missing(f"user namespaces ({refusal})")
    assert ended_by == signal.SIGKILL


# --- prctl, ioctl, fcntl ----------------------------------------------------------------------

PRCTLS = {
    "PR_SET_PDEATHSIG": (1, 0),
    "PR_SET_DUMPABLE": (4, 1),
    "PR_SET_SECCOMP": (22, 1),
    "PR_SET_CHILD_SUBREAPER": (36, 1),
    "PR_SCHED_CORE": (62, 1),
    "PR_SET_PTRACER": (0x59616D61, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_cannot_take_its_bonds_off(who: Identity, kind: str) -> None:
    def attempt() -> dict[str, str]:
        return {name: call("prctl", *words, 0, 0, 0) for name, words in PRCTLS.items()}

    assert who.run(attempt, layer=seccomp(kind)) == dict.fromkeys(PRCTLS, "EPERM")
    harmless = who.run(lambda: call("prctl", 15, b"name", 0, 0, 0), layer=seccomp(kind))
    assert harmless == ""


def test_without_the_filter_a_process_takes_its_bonds_off(who: Identity) -> None:
    names = ("PR_SET_PDEATHSIG", "PR_SET_DUMPABLE", "PR_SET_CHILD_SUBREAPER")
    for name in names:
        assert who.run(partial(call, "prctl", *PRCTLS[name], 0, 0, 0)) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_typed_into_a_terminal(who: Identity, kind: str) -> None:
    master, terminal = os.openpty()
    try:

        def attempt() -> list[str]:
            return [call("ioctl", terminal, number, b"x") for number in (0x5412, 0x541C)]

        assert who.run(attempt, layer=seccomp(kind)) == ["EPERM", "EPERM"]
    finally:
        os.close(master)
        os.close(terminal)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_not_leased_or_watched_and_pipes_not_grown(
    who: Identity, kind: str, folder: Path
) -> None:
    path = folder / "file"
    path.write_bytes(b"")
    if who.uid is not None:
        os.chown(path, who.uid, who.uid)

    def attempt() -> list[str]:
        fd = os.open(path, os.O_RDONLY)
        return [
            error_of(lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
            error_of(lambda: fcntl.fcntl(os.open(folder, os.O_RDONLY), fcntl.F_NOTIFY, 2)),
            error_of(lambda: fcntl.fcntl(os.pipe()[0], 1031, 1 << 17)),  # F_SETPIPE_SZ
        ]

    assert who.run(attempt, layer=seccomp(kind)) == ["EPERM"] * 3
    assert who.run(attempt) == [""] * 3


# --- sockets ----------------------------------------------------------------------------------

FAMILIES = (1, 2, 10, 15, 16, 17, 29, 38, 40, 44)
TYPES = (1, 2, 3, 4, 5, 1 | socket.SOCK_CLOEXEC)


@pytest.mark.parametrize("kind", KINDS)
def test_no_socket_can_be_made(who: Identity, kind: str) -> None:
    def attempt() -> list[str]:
        return [call("socket", family, kind, 0) for family in FAMILIES for kind in TYPES]

    assert set(who.run(attempt, layer=seccomp(kind))) == {"EACCES"}
    assert "" in who.run(attempt)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_of_unix_streams_alone(who: Identity, kind: str) -> None:
    def attempt() -> list[str]:
        left, right = socket.socketpair()
        left.sendall(b"x")
        results = [right.recv(1).decode()]
        pair = (ctypes.c_int * 2)()
        for family, kind in ((1, 2), (1, 3), (1, 5), (2, 1), (30, 1), (1, 2 | socket.SOCK_CLOEXEC)):
            results.append(call("socketpair", family, kind, 0, ctypes.byref(pair)))
        for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, 0o2004000):
            results.append(call("socketpair", 1, 1 | flags, 0, ctypes.byref(pair)))
        results.append(error_of(lambda: left.bind("\0name")))
        return results

    expected = ["x", *["EACCES"] * 6, *[""] * 4, "EPERM"]
    assert who.run(attempt, layer=seccomp(kind)) == expected
    assert who.run(attempt)[-1] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_tells_nothing_of_the_network_and_takes_no_program(who: Identity, kind: str) -> None:
    def attempt() -> list[str]:
        left, _right = socket.socketpair()
        interface = bytearray(b"lo".ljust(40, b"\0"))
        let_all_pass = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF), 8)
        program = struct.pack("@HP", 1, ctypes.addressof(let_all_pass))
        return [
            error_of(lambda: fcntl.ioctl(left, 0x8913, interface)),  # SIOCGIFFLAGS
            error_of(lambda: fcntl.ioctl(left, 0x8927, interface)),  # SIOCGIFHWADDR
            error_of(lambda: left.setsockopt(socket.SOL_SOCKET, 26, program)),
            error_of(lambda: left.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)),
        ]

    assert who.run(attempt, layer=seccomp(kind)) == ["EPERM", "EPERM", "EPERM", ""]
    assert who.run(attempt) == [""] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_of_sockets_and_timers_of_the_user_are_not_to_be_had(
    who: Identity, kind: str
) -> None:
    def attempt() -> list[Any]:
        left, _right = socket.socketpair()
        sizes = []
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            before = left.getsockopt(socket.SOL_SOCKET, option)
            left.setsockopt(socket.SOL_SOCKET, option, 2 * before + 4096)
            sizes.append(left.getsockopt(socket.SOL_SOCKET, option) > before)
        timer = ctypes.c_int()
        return [*sizes, call("timer_create", 1, None, ctypes.addressof(timer))]

    assert who.run(attempt, layer=seccomp(kind)) == [False, False, "EPERM"]
    assert who.run(attempt)[-1] == ""


def test_stream_sockets_may_exist_but_not_connect(who: Identity) -> None:
    def attempt() -> dict[str, str]:
        pair = socket.socketpair()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            address = ("127.0.0.1", 9)
            fast_open = 0x20000000
            return {
                "udp": error_of(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
                "raw": error_of(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW)),
                "mptcp": error_of(lambda: socket.socket(2, socket.SOCK_STREAM, 262)),
                "sctp": error_of(lambda: socket.socket(2, socket.SOCK_STREAM, 132)),
                "unix": error_of(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)),
                "connect": error_of(lambda: stream.connect(address)),
                "bind": error_of(lambda: stream.bind(address)),
                "listen": error_of(stream.listen),
                "sendto": error_of(lambda: stream.sendto(b"x", fast_open, address)),
                "sendmsg": error_of(lambda: stream.sendmsg([b"x"], [], fast_open, address)),
                "sendmmsg": call("sendmmsg", stream.fileno(), 0, 0, fast_open),
                "plain send": error_of(lambda: pair[0].sendall(b"x")),
                "plain sendmsg": error_of(lambda: pair[0].sendmsg([b"x"])),
            }

    results = who.run(attempt, layer=seccomp("default", allows_stream_sockets=True))
    closed = dict.fromkeys(("udp", "raw", "mptcp", "sctp", "unix"), "EACCES")
    still = dict.fromkeys(("connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg"), "EPERM")
    assert results == {**closed, **still, "plain send": "", "plain sendmsg": ""}


# --- beside Landlock --------------------------------------------------------------------------


def change_by_path(path: Path) -> list[str]:
    return [
        error_of(lambda: path.chmod(0o777)),
        error_of(lambda: os.utime(path, (1, 1))),
        error_of(lambda: os.chmod(os.open(path, os.O_RDONLY), 0o777)),
    ]


def test_only_wall_lets_modes_and_times_go_unheard(who: Identity, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"")
    if who.uid is not None:
        os.chown(path, who.uid, who.uid)
    before = path.stat()
    assert who.run(lambda: change_by_path(path), layer=seccomp("only_wall")) == [""] * 3
    after = path.stat()
    assert (after.st_mode, after.st_mtime, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime,
        before.st_ctime_ns,
    )
    assert who.run(lambda: change_by_path(path)) == [""] * 3
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o777, 1)


def test_only_wall_empties_no_file_that_may_only_be_read(who: Identity, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"content")
    if who.uid is not None:
        os.chown(path, who.uid, who.uid)
    name = os.fsencode(path)
    odd = (os.O_RDONLY | os.O_TRUNC, 3, 3 | os.O_TRUNC)

    def attempt() -> list[str]:
        results = [call("openat", -100, name, flags, 0) for flags in odd]
        results += [call("open", name, flags, 0) for flags in odd] if exists("open") else []
        return [*results, call("truncate", name, 0)]

    layer = seccomp("only_wall", landlock_abi=2)
    assert set(who.run(attempt, layer=layer)) == {"EPERM"}
    assert path.read_bytes() == b"content"
    # From ABI 3 on Landlock itself guards truncate(2).
    assert who.run(attempt, layer=seccomp("only_wall", landlock_abi=3))[-1] == ""
    path.write_bytes(b"content")
    assert set(who.run(attempt)) == {""}
    assert path.read_bytes() == b""


# --- what works -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERYDAY)
def test_ordinary_python_works(who: Identity, folder: Path, kind: str, name: str) -> None:
    if who.uid is not None and not readable_by_all(Path(os.__file__)):
        pytest.skip("this Python's own files are closed to others")

    def attempt() -> bool:
        os.chdir(folder)
        return bool(EVERYDAY[name](folder))

    assert who.run(attempt, layer=seccomp(kind))


def readable_by_all(path: Path) -> bool:
    return all(one.stat().st_mode & 0o005 for one in (path.resolve(), *path.resolve().parents))


def test_sync_is_answered_without_a_flush(who: Identity) -> None:
    assert who.run(lambda: [call("sync"), call("syncfs", -1)], layer=seccomp("default")) == ["", ""]
    assert who.run(lambda: call("syncfs", -1)) == "EBADF"


# --- building and installing ------------------------------------------------------------------


def test_filter_stays_on_and_is_the_kernels_word(who: Identity) -> None:
    def attempt() -> list[str]:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return re.findall(r"^(?:Seccomp|NoNewPrivs):\s*(\d)$", status, re.MULTILINE)

    assert who.run(attempt, layer=seccomp("default")) == ["1", "2"]


@pytest.mark.skipif(not IS_ROOT, reason="needs a user without capabilities to become")
def test_install_needs_no_new_privs() -> None:
    pid = os.fork()
    if pid == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os._exit(0 if error_of(seccomp("default")) == "EACCES" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert Identity(NOBODY).run(lambda: error_of(seccomp("default"))) == ""


def test_one_filter_serves_many_children(who: Identity) -> None:
    layer = seccomp("default")
    results = [
        who.run(lambda: [call("kill", os.getpid(), 0), call("kill", os.getppid(), 0)], layer=layer)
        for _ in range(3)
    ]
    assert results == [["", "EPERM"]] * 3


@pytest.mark.parametrize("machine", ["riscv64", "armv7l", "i686", "aarch64_be"])
def test_other_machines_are_told_so(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: type("uname", (), {"machine": machine}))
    with pytest.raises(OSError, match=rf"64-bit Python on {machine} are not known here"):
        linux_seccomp.build_filter(**KINDS["default"])


def test_a_32_bit_python_on_a_64_bit_kernel_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    with pytest.raises(OSError, match="32-bit Python"):
        linux_seccomp.build_filter(**KINDS["default"])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_is_judged_as_the_rules_say(
    monkeypatch: pytest.MonkeyPatch, machine: str, kind: str
) -> None:
    """Run both machines' filters as the kernel does, for every number, with nonsense arguments."""
    monkeypatch.setattr(os, "uname", lambda: type("uname", (), {"machine": machine}))
    program = linux_seccomp.build_filter(**KINDS[kind])
    column = 0 if machine == "x86_64" else 1
    audit = (0xC000003E, 0xC00000B7)[column]
    refused = {error: set(names.split()) for error, names in REFUSED.items()}
    names = {both[column]: name for name, both in linux_syscalls.NUMBERS.items()}
    for number in range(linux_syscalls.HIGHEST + 40):
        verdict = interpret(program.code, number, audit)
        assert interpret(program.code, number, 0x40000003) == linux_bpf.KILL_PROCESS
        name = names.get(number)
        if name is None:
            is_known = number <= linux_syscalls.HIGHEST
            assert verdict == (linux_bpf.ALLOW if is_known else linux_bpf.fail_with(errno.ENOSYS))
        elif kind != "own_pids":
            for error in (error for error in refused if name in refused[error]):
                assert verdict == linux_bpf.fail_with(getattr(errno, error)), name


def interpret(code: bytes, number: int, architecture: int) -> int:
    """Run classic BPF over a seccomp_data whose arguments are all ones."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[2**64 - 1] * 6)
    at, register = 0, 0
    while True:
        operation, if_true, if_false, k = instructions[at]
        at += 1
        if operation == 0x20:
            register = struct.unpack_from("=I", data, k)[0]
        elif operation == 0x54:
            register &= k
        elif operation == 0x05:
            at += k
        elif operation == 0x15:
            at += if_true if register == k else if_false
        elif operation == 0x35:
            at += if_true if register >= k else if_false
        else:
            assert operation == 0x06
            return int(k)
