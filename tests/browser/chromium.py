"""A headless Chromium with a profile of its own, gone with all its processes at the end."""

import os
import queue
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.browser.page_server import PAGE, PageServer
from tests.processes import pids_with_argument
from tests.waiting import DEADLINE_SECONDS, wait_for

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium has none for root, and in most containers
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in a container by default
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--no-proxy-server",
)
# How much of the page's own time may pass before the page is written out.
_VIRTUAL_TIME_MS = 20_000


@dataclass(frozen=True)
class Visit:
    """What a page became, and what it said on the console meanwhile."""

    dom: str
    console: list[str]


@dataclass(frozen=True)
class Chromium:
    """A browser's program and the folder for its profile."""

    program: str
    profile: Path

    def drive(self, pages: PageServer) -> Any:
        """Open the harness and return what it saw."""
        with self._running(f"{pages.origin}{PAGE}") as process:

            def look() -> Any:
                try:
                    return pages.seen.get_nowait()
                except queue.Empty:
                    assert process.poll() is None, "the browser ended"
                    return None

            return wait_for(look, "the page to tell what it saw")

    def visit(self, url: str) -> Visit:
        """Open a page, let it settle, return it."""
        settle = (f"--virtual-time-budget={_VIRTUAL_TIME_MS}", "--enable-logging=stderr", "--v=0")
        log = self.profile.with_suffix(".log")
        with self._running("--dump-dom", *settle, url, log=log) as process:
            dom, _ = process.communicate(timeout=DEADLINE_SECONDS)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return Visit(dom, [line for line in lines if "CONSOLE" in line])

    @contextmanager
    def _running(self, *arguments: str, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        with open(log or os.devnull, "wb") as stderr:
            process = subprocess.Popen(
                [self.program, *_FLAGS, f"--user-data-dir={self.profile}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                start_new_session=True,
            )
            with process:
                try:
                    yield process
                finally:
                    self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself
        wait_for(lambda: not pids_with_argument(str(self.profile)), "the browser to be gone")


def find_program() -> str | None:
    """Return the path of the installed Chromium or Chrome."""
    return next(filter(None, map(shutil.which, NAMES)), None)
