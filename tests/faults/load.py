"""Clients who do everything at once, and note what they were promised."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.rig import GONE, Client

MOST_AGENTS = 6


@dataclass
class Load:
    """Threads that upload, execute, cancel and delete until they are stopped or the server dies.

    The same seed gives each thread the same wishes; what comes of them depends on the others.
    """

    client: Client
    seed: int
    threads: int = 4
    archive_size: int = 20_000
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._running = [
            threading.Thread(target=self._work, args=(random.Random(f"{self.seed} {number}"),))
            for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def _work(self, choices: random.Random) -> None:
        wishes: list[Callable[[int], object]] = [self._upload, self._cancel]
        wishes += [self._execute] * 3 + [self._begin] * 2
        while not self._stop.is_set():
            try:
                agent_id = self._agent(choices)
                if choices.random() < 0.03:
                    self.client.delete(agent_id)
                else:
                    choices.choice(wishes)(agent_id)
            except GONE:
                return
            except Exception as exc:
                self.failures.append(repr(exc))
                raise

    def _agent(self, choices: random.Random) -> int:
        """Return one that nobody has asked to delete, as far as this thread knows."""
        promises = self.client.promises
        agents = sorted(filter(promises.is_kept_for, set(promises.agents)))
        if (len(agents) < MOST_AGENTS and choices.random() < 0.3) or not agents:
            agent_id = self.client.new_agent()
            if agent_id is not None:
                self.client.upload(agent_id, self.archive_size)
                return agent_id
        return choices.choice(agents)

    def _upload(self, agent_id: int) -> None:
        status = self.client.upload(agent_id, self.archive_size).status
        # While its history is being deleted an agent is archived, and takes no uploads.
        is_kept = self.client.promises.is_kept_for(agent_id)
        self._expect(status, 201, 404, *(() if is_kept else (400,)))

    def _execute(self, agent_id: int) -> None:
        # 400: its first version is not ready.
        self._expect(self.client.execute(agent_id, {"n": 1}).status, 201, 400, 404, 503)

    def _begin(self, agent_id: int) -> None:
        self._expect(self.client.begin(agent_id, {"sleep": 0.1}).status, 202, 400, 404, 503)

    def _cancel(self, _agent_id: int) -> None:
        for row in self.client.unfinished():
            version = self.client.promises.uploads.get(row["agent_version_id"])
            if version is not None:
                status = self.client.cancel(version[0]["agent_id"], row["id"]).status
                self._expect(status, 200, 404)

    def _expect(self, status: int, *expected: int) -> None:
        if status not in expected:
            self.failures.append(f"{status} instead of {expected}")
