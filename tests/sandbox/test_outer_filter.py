"""The outer filter refuses what Docker's default profile does, and nothing else."""

import json
import subprocess
import sys
from typing import Any

from tests.live_server import ROOT

_FILTER = str(ROOT / "tests" / "outer_filter.py")
_PROBE = """
import ctypes, errno, json, os, signal, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
def call(function, *arguments):
    ctypes.set_errno(0)
    answer = function(*arguments)
    if answer == 0 and function is clone:
        os._exit(0)
    return errno.errorcode.get(ctypes.get_errno(), "done") if answer < 0 else "done"
clone_number = 56 if os.uname().machine == "x86_64" else 220
def clone(flags):
    return syscall(clone_number, flags | signal.SIGCHLD, 0, 0, 0, 0)
def start_thread():
    thread = threading.Thread(target=print, args=("",), kwargs={"file": sys.stderr})
    thread.start()
    thread.join()
    return "done"
print(json.dumps({
    "unshare user": call(libc.unshare, 0x10000000),
    "unshare files": call(libc.unshare, 0x400),
    "mount": call(libc.mount, b"none", b"/nowhere", b"tmpfs", 0, None),
    "umount": call(libc.umount2, b"/nowhere", 2),
    "pivot_root": call(libc.pivot_root, b"/", b"/"),
    "setns": call(libc.setns, 0, 0),
    "clone user": call(clone, 0x10000000),
    "clone pid": call(clone, 0x20000000),
    "clone": call(clone, 0),
    "clone3": call(syscall, 435, None, 0),
    "thread": start_thread(),
    "subprocess": subprocess.run([sys.executable, "-c", ""]).returncode,
}))
"""


def under_filter(source: str) -> Any:
    command = [sys.executable, _FILTER, sys.executable, "-c", source]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)


def test_namespaces_and_mounts_are_refused_and_the_rest_works() -> None:
    assert under_filter(_PROBE) == {
        "unshare user": "EPERM",
        "unshare files": "EPERM",
        "mount": "EPERM",
        "umount": "EPERM",
        "pivot_root": "EPERM",
        "setns": "EPERM",
        "clone user": "EPERM",
        "clone pid": "EPERM",
        "clone": "done",
        "clone3": "ENOSYS",
        "thread": "done",
        "subprocess": 0,
    }


def test_the_command_takes_the_place_of_the_filter() -> None:
    source = "import os, json, sys; print(json.dumps([os.getpid(), sys.argv]))"
    command = [sys.executable, _FILTER, sys.executable, "-c", source, "word"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=60)
    assert json.loads(out) == [process.pid, ["-c", "word"]]
