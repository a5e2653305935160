"""Forked children that restrict themselves, try something and tell what came of it."""

import ctypes
import errno
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from anymind_lite.sandbox.in_child.layers import linux_calls, linux_syscalls

NOBODY = 65534
COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine)

_libc = ctypes.CDLL(None, use_errno=True)


def nothing() -> None:
    """Restrict nothing: how the same attempt goes without the layer."""


@dataclass(frozen=True)
class Identity:
    """The user that a child becomes first; None stays who runs the tests."""

    uid: int | None

    def run(self, attempt: Callable[[], Any], *, layer: Callable[[], None] = nothing) -> Any:
        """Return what an attempt returns in a child under a layer, as JSON; raise if it raises."""
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            _be_the_child(writable, lambda: self._attempt(attempt, layer))
        os.close(writable)
        with open(readable, "rb") as pipe:
            text = pipe.read()
        _pid, status = os.waitpid(pid, 0)
        assert text, f"the child died of status {status}"
        told = json.loads(text)
        assert "error" not in told, told["error"]
        return told["result"]

    def _attempt(self, attempt: Callable[[], Any], layer: Callable[[], None]) -> Any:
        os.setsid()
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        linux_calls.prctl(linux_calls.PR_SET_NO_NEW_PRIVS, 1)
        layer()
        return attempt()


def _be_the_child(writable: int, work: Callable[[], Any]) -> NoReturn:
    try:
        told = {"result": work()}
    except BaseException:
        told = {"error": traceback.format_exc()}
    try:
        with open(writable, "w", encoding="utf-8") as pipe:
            json.dump(told, pipe)
    finally:
        os._exit(0)


def call(name: str, *arguments: Any) -> str:
    """Make a system call; return the name of its errno, "" where it succeeds."""
    assert COLUMN is not None
    number = linux_syscalls.NUMBERS[name][COLUMN]
    assert number is not None, f"{name} is none of this machine's"
    return call_number(number, *arguments)


def call_number(number: int, *arguments: Any) -> str:
    """Make a system call by number, whole machine words for arguments."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    if _libc.syscall(ctypes.c_long(number), *words) >= 0:
        return ""
    return errno.errorcode[ctypes.get_errno()]


def exists(name: str) -> bool:
    """Tell whether this machine's architecture has a system call."""
    return COLUMN is not None and linux_syscalls.NUMBERS[name][COLUMN] is not None


def error_of(attempt: Callable[[], Any]) -> str:
    """Return the name of the errno that an attempt raises, "" where it raises none."""
    try:
        attempt()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return ""


def missing(reason: str) -> None:
    """Skip for want of a feature; where nothing may be missing (CI), fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lacks what this needs: {reason}")
    pytest.skip(reason)
