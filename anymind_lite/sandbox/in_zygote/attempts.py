"""Trying something in a throw-away child, and telling a refusal of the machine from a fault.

Runs in the stub.
"""

import errno
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

from anymind_lite.sandbox.in_child.layers import linux_calls as linux

_SECONDS = 10.0
# How a kernel, a container runtime or AppArmor says no: any other error is ours, not the machine's.
REFUSALS = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENOSPC,  # user.max_user_namespaces
    errno.EUSERS,
    errno.ENODEV,
}


class Refused(Exception):
    """The machine does not let us; the text says what and why."""


class SetUpFailed(Exception):
    """A wall failed in a way that nobody foresaw; the text says how."""


def attempt(action: Callable[[], None]) -> None:
    """Do something in a fork. Raises Refused and SetUpFailed."""
    found = in_child(action)
    if found["errno"] in REFUSALS:
        raise Refused(found["text"])
    if found["text"]:
        raise SetUpFailed(found["text"])


def in_child(action: Callable[[], None]) -> dict[str, Any]:
    """Do something in a fork; return what it raised as errno and text, 0 and "" if nothing."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report_attempt(action, writable)
    os.close(writable)
    try:
        is_told = select.select([readable], [], [], _SECONDS)[0]
        text = os.read(readable, 4096) if is_told else b""
    finally:
        os.close(readable)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    unsaid = {"errno": 0, "text": "the attempt ended without a word" if is_told else "it hangs"}
    return json.loads(text) if text else unsaid


def _report_attempt(action: Callable[[], None], writable: int) -> None:
    found: dict[str, Any] = {"errno": 0, "text": ""}
    try:
        if sys.platform == "linux":
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        action()
    except OSError as exc:
        found = {"errno": exc.errno or 0, "text": exc.strerror or str(exc)}
    except BaseException as exc:  # noqa: BLE001 - an edge: the parent hears of it
        found = {"errno": 0, "text": f"{type(exc).__name__}: {exc}"}
    os.write(writable, json.dumps(found).encode())
    os._exit(0)
