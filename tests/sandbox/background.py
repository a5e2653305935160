"""Runs that go on while a test does something else."""

import threading
from typing import Any

from anymind_lite.sandbox.in_server.conversation import Conversation
from anymind_lite.sandbox.in_server.outcome import Outcome
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for


class Background:
    """A run in a thread of its own."""

    def __init__(self, sandbox: Sandbox, source: str, *, key: str = "", **keywords: Any) -> None:
        self.outcomes: list[Outcome] = []
        self._sandbox = sandbox
        self._key = key
        self._thread = threading.Thread(
            target=lambda: self.outcomes.append(sandbox.run(source, key=key, **keywords))
        )
        self._thread.start()

    def conversation(self) -> Conversation:
        """Wait until the supervisor knows of the run, which must have a key."""
        known = self._sandbox.supervisor._conversations
        return wait_for(lambda: known.get(self._key), "the supervisor to take the job")

    def wait_for_print(self, text: str) -> None:
        conversation = self.conversation()
        wait_for(lambda: text in conversation._log.text(), f"the agent to print {text!r}")

    def outcome(self) -> Outcome:
        self._thread.join(60.0)
        assert self.outcomes, "the run never ended"
        return self.outcomes[0]


def zygote_of(sandbox: Sandbox) -> int:
    pid = sandbox.supervisor.zygote_pid
    assert pid is not None
    return pid
