"""A version that is kept imported, for tests of templates."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from tests.processes import children
from tests.sandbox.conftest import Sandbox
from tests.waiting import wait_for

_numbers = itertools.count(1)


@dataclass
class Version:
    """Code of one version; `limits` are a run's, and its template's if `importing` is None."""

    sandbox: Sandbox
    source: str
    files: dict[str, str] = field(default_factory=dict)
    entrypoint: str = "main:handle"
    limits: Limits = field(default_factory=Limits)
    importing: Limits | None = None

    def __post_init__(self) -> None:
        self.name = f"version-{next(_numbers)}"
        self.folder = self.sandbox.write(self.source, self.files)

    def job(self, mode: Mode, limits: Limits) -> Job:
        return Job(mode, limits, self.folder, self.entrypoint)

    def prepare(self) -> Outcome:
        """Make the template; return how that went."""
        return self.sandbox.supervisor.templates.prepare(
            self.name,
            self.job(Mode.TEMPLATE, self.importing or self.limits),
            key=f"template-{self.name}",
            is_wanted=lambda: True,
        )

    def want(self) -> None:
        """Ask for a template, and go on."""
        job = self.job(Mode.TEMPLATE, self.importing or self.limits)
        self.sandbox.supervisor.templates.want(self.name, job)

    def run(
        self,
        payload: Any = None,
        *,
        key: str = "",
        is_wanted: Callable[[], bool] = lambda: True,
        **limits: Any,
    ) -> Outcome:
        """Run it, from its template where there is one; keyword arguments are limits."""
        job = self.job(Mode.EXECUTE, replace(self.limits, **limits))
        key = key or f"{self.name}-run-{next(_numbers)}"
        text = json.dumps(payload).encode()
        return self.sandbox.supervisor.run(
            job, text, key=key, is_wanted=is_wanted, template=self.name
        )

    @property
    def stands(self) -> bool:
        """Whether it has a template."""
        return self.name in self.sandbox.supervisor.templates._standing

    @property
    def why_unfit(self) -> str | None:
        """What the pool remembers against it."""
        return self.sandbox.supervisor.templates._unfit.get(self.name)


def warm(sandbox: Sandbox, source: str, **keywords: Any) -> Version:
    """Write a version and make its template, which must be fit."""
    version = Version(sandbox, source, **keywords)
    outcome = version.prepare()
    assert (outcome.reason, version.stands) == (StopReason.RETURNED, True), outcome
    return version


def result(outcome: Outcome) -> Any:
    """Return the result of a run that must have come from a template."""
    assert outcome.reason is StopReason.RETURNED, outcome
    assert outcome.is_warm, outcome
    return outcome.details["result"]


def wait_for_spare(sandbox: Sandbox, count: int = 3) -> set[int]:
    """Wait until the zygote has so many children: of a template alone init, itself, spare."""
    zygote = sandbox.supervisor.zygote_pid
    assert zygote is not None
    return wait_for(
        lambda: found if len(found := children(zygote)) == count else set(),
        f"the zygote to have {count} children",
    )
