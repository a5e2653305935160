"""Cloning: a fork whose child is the zygote's own, in a user namespace of its own.

Runs in a template. fork(3) can do neither, so the call is made past libc. What libc's fork does
beside it is for programs with threads, which a template has none of; but for the thread's id, which
the kernel is asked to write where libc keeps it.
"""

import ctypes
import os
import sys
import threading

from anymind_lite.sandbox.in_child.layers import linux_calls as linux

# The number of clone(2), and which argument is the place for the child's thread id.
_CALLS = {"x86_64": (56, 3), "aarch64": (220, 4)}
_SCANNED_BYTES = 1024  # the id stands at 720 in x86-64's struct pthread, at 208 in aarch64's

_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the GIL: there is nobody to hand it to
_libc.pthread_self.restype = ctypes.c_void_p
_libc.syscall.argtypes = [ctypes.c_long] * 6
_python = ctypes.pythonapi


def is_possible() -> bool:
    """Tell whether this machine's call is known."""
    return sys.platform == "linux" and os.uname().machine in _CALLS


def find_thread_id_place() -> int:
    """Return where libc keeps the id of this thread, 0 where that cannot be told.

    Call it before any namespace: low ids are found in many places. What is forked inherits it.
    """
    address = _libc.pthread_self()
    words = (ctypes.c_int32 * (_SCANNED_BYTES // 4)).from_address(address)
    own_id = threading.get_native_id()
    found = [index for index, word in enumerate(words) if word == own_id]
    return address + 4 * found[0] if len(found) == 1 else 0


def clone(thread_id_place: int) -> int:
    """Clone this process; return 0 in the clone and its pid here. Raises OSError.

    Only for a process with one thread. `thread_id_place` is what `find_thread_id_place` found.
    """
    number, place = _CALLS[os.uname().machine]
    arguments = [linux.CLONE_OF_TEMPLATE, 0, 0, 0, 0]
    arguments[place] = thread_id_place
    _python.PyOS_BeforeFork()
    pid = _libc.syscall(number, *arguments)
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return int(pid)
