"""What an import may leave behind that must not be cloned.

Runs in a template, right after the import, in the process that the agent's code shares: for code
that means well. Threads that Python does not know of, and shared memory, are for the server to see.
"""

import gc
import os
import resource
import signal
import sys

from anymind_lite.sandbox.protocol import CHANNEL_FD, REPORT_FD

_getitimer, _sigmask = signal.getitimer, signal.pthread_sigmask
_fstat, _listdir = os.fstat, os.listdir
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def why_unfit(scratch_dir: str) -> str:
    """Tell what the import left behind that two runs would share or a clone would lose, or ""."""
    if len(sys._current_frames()) > 1:  # noqa: SLF001 - threading may be patched, or not be used
        return "it started a thread"
    fd = _first_open_descriptor()
    if fd is not None:
        return f"it left a file or a socket open (descriptor {fd})"
    if _sigmask(signal.SIG_BLOCK, ()):
        return "it changed the mask of signals"
    if any(_getitimer(which)[0] for which in _TIMERS):
        return "it set a timer"
    if _has_memory_map():
        return "it holds a memory map"
    left = _listdir(scratch_dir)
    if left:
        return f"it left {len(left)} file{'s' if len(left) != 1 else ''} in the working folder"
    return ""


def _has_memory_map() -> bool:
    """Tell whether there is an object of `mmap`: its memory is shared, at first unseen.

    What nobody has written to yet counts nowhere outside.
    """
    kind = getattr(sys.modules.get("mmap"), "mmap", None)
    return kind is not None and any(type(one) is kind for one in gc.get_objects())


def _first_open_descriptor() -> int | None:
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for fd in range(REPORT_FD + 1, limit):
        if fd == CHANNEL_FD:
            continue
        try:
            _fstat(fd)
        except OSError:
            continue
        return fd
    return None
