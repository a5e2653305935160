import ctypes
import multiprocessing
import os
import pty
import subprocess
import sys

SIGCHLD = 17
CLONE_VM, CLONE_VFORK, CLONE_PARENT = 0x100, 0x4000, 0x8000
CALLS = {"x86_64": (56, 57, 58, 435), "aarch64": (220, None, None, 435)}[os.uname().machine]


def by_call(number, *arguments):
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(number, *arguments)
    if pid == 0:
        libc._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "refused")


def by_clone3():
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, SIGCHLD)
    by_call(CALLS[3], ctypes.byref(arguments), ctypes.sizeof(arguments))


def child_ends(pid):
    if pid == 0:
        os._exit(0)


def by_multiprocessing():
    multiprocessing.get_context("fork").Process(target=print).start()


ATTACKS = {
    "fork": lambda: child_ends(os.fork()),
    "forkpty": lambda: child_ends(pty.fork()[0]),
    "clone": lambda: by_call(CALLS[0], SIGCHLD, 0, 0, 0, 0),
    "clone_of_the_parent": lambda: by_call(CALLS[0], SIGCHLD | CLONE_PARENT, 0, 0, 0, 0),
    "raw_fork": lambda: by_call(CALLS[1]),
    "clone3": by_clone3,
    "posix_spawn": lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}),
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "system": lambda: (_ for _ in ()).throw(OSError) if os.system("true") else None,
    "multiprocessing": by_multiprocessing,
    "execve": lambda: os.execve(sys.executable, [sys.executable, "-c", "print(1)"], {}),
}


def handle(payload):
    achieved = []
    for name, attack in ATTACKS.items():
        try:
            attack()
        except OSError:
            continue
        if CALLS[1] is None and name == "raw_fork":
            continue
        achieved.append(name)
    return {"achieved": achieved, "tried": list(ATTACKS)}
