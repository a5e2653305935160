"""Builds: turning a queued version into a ready or a failed one.

The row is the job. A build owns it by the token it wrote into `claim`; whoever finds another token
there has lost and leaves it alone. A build may run more than once and takes effect once.
"""

import json
import logging
import secrets
import time
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from peewee import fn

from anymind_lite.archive import MANIFEST_NAME
from anymind_lite.clock import utc_now
from anymind_lite.database import is_disk_full, write_transaction
from anymind_lite.errors import BuildError
from anymind_lite.manifest import Manifest
from anymind_lite.models import Agent, AgentStatus, AgentVersion, VersionStatus
from anymind_lite.reader.answer import Unpacked
from anymind_lite.reader.in_server import NoRoomToUnpack, Reader, ReadingCancelled
from anymind_lite.sandbox.in_server.outcome import Outcome, StopReason, one_line
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Limits
from anymind_lite.sandbox.protocol import Job, Mode
from anymind_lite.services.agents import derive_status
from anymind_lite.services.code import is_gone, remove_if_gone, template_name, unpack_code
from anymind_lite.services.limits import (
    Caps,
    build_limits,
    check_limits,
    execution_limits,
    template_limits,
)
from anymind_lite.storage import ArtifactStore, DiskReserve

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
_MAX_LISTED_FILES = 20
# Ends of a template that may be its own, and not what its code comes to in a run.
_NO_VERDICT = {StopReason.SANDBOX_FAILURE, StopReason.KILLED_BY_SIGNAL}
# A version that found no room is tried again when there is so much more.
_MORE_ROOM_BYTES = 16 << 20


class BuildLog:
    """The lines of one build, each with the seconds since it began."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Add one line with its time."""
        seconds = time.monotonic() - self._started_at
        self._lines.append(f"[{seconds:7.3f} s] {line}")

    def add_output(self, text: str) -> None:
        """Add what the agent printed, indented."""
        self._lines += [f"            | {line}" for line in text.splitlines()]

    def text(self) -> str:
        """Return all lines."""
        return "\n".join(self._lines)


class BuildInterrupted(Exception):
    """The server ends: the build is given back, not judged."""


class BuildPostponed(Exception):
    """There is no room for the code now: the build is given back, not judged."""


def _job_key(claim: str) -> str:
    return f"build-{claim}"


class Builder:
    """Builds versions; one for the whole server, called by the build queue's threads."""

    def __init__(
        self,
        *,
        store: ArtifactStore,
        sandbox: Supervisor,
        limits: Limits,
        run_limits: Limits,
        caps: Caps,
        reader: Reader,
        disk: DiskReserve,
    ) -> None:
        self._disk = disk
        self._needed_bytes: dict[int, int] = {}  # by version, where there was no room
        self._store = store
        self._sandbox = sandbox
        self._limits = limits
        self._run_limits = run_limits
        self._caps = caps
        self._reader = reader
        self._claims: set[str] = set()
        self._is_ending = False

    @property
    def claims(self) -> Container[str]:
        """The tokens of the builds that run in this process, at the moment of asking."""
        return self._claims

    def begin(self) -> None:
        """Take builds, also after an earlier `interrupt`."""
        self._is_ending = False

    def interrupt(self) -> None:
        """Begin no more builds and end those that run; their versions are queued again."""
        self._is_ending = True
        for claim in tuple(self._claims):
            self._reader.cancel(_job_key(claim))
            self._sandbox.cancel(_job_key(claim))

    def build_version(self, version_id: int) -> bool:
        """Build one queued version; does nothing when it is not queued (any more).

        Tells whether the next may be tried at once: not after a failure of ours, which would only
        come again, nor where there is no room or the server ends.
        """
        if self._is_ending or not self._has_room(version_id):
            return False
        claim = secrets.token_hex(8)
        self._claims.add(claim)
        try:
            if mark_building(version_id, claim):
                self._build(AgentVersion.get_by_id(version_id), claim)
            return True
        except (BuildInterrupted, BuildPostponed):
            release_build(version_id, claim)
        except Exception:
            if is_gone(version_id):  # deleted with its agent, and its code from under the build
                logger.info("event=build_superseded version_id=%d", version_id)
            else:
                # Ours, not the agent's: recovery queues the version again, three times at most.
                logger.exception("event=build_crashed version_id=%d", version_id)
        finally:
            self._claims.discard(claim)
        return False

    def _has_room(self, version_id: int) -> bool:
        """Tell whether a version is worth a try; recovery asks again every few seconds."""
        spare = self._disk.spare_bytes()
        needed = min(self._needed_bytes.get(version_id, 1), self._reader.max_unpacked_bytes)
        return spare >= needed

    def _unpack(self, version: AgentVersion, claim: str) -> tuple[Path, Unpacked]:
        """Unpack without touching the reserve. Raises BuildError, BuildPostponed and OSError."""
        spare = self._disk.spare_bytes()
        try:
            found = unpack_code(
                version,
                store=self._store,
                reader=self._reader,
                key=_job_key(claim),
                is_wanted=self._is_wanted,
                max_bytes=max(spare, 1),
            )
        except (NoRoomToUnpack, OSError) as exc:
            if not (isinstance(exc, NoRoomToUnpack) or is_disk_full(exc)):
                raise
            self._needed_bytes[version.id] = spare + _MORE_ROOM_BYTES
            logger.warning(
                "event=build_postponed version_id=%d spare_mb=%d", version.id, spare >> 20
            )
            raise BuildPostponed from exc
        self._needed_bytes.pop(version.id, None)
        return found

    def _build(self, version: AgentVersion, claim: str) -> None:
        log = BuildLog()
        log.add(f"Building version v{version.number} ({version.tarball_bytes:,} bytes)")
        manifest = None
        try:
            folder, unpacked = self._unpack(version, claim)
            files, manifest = unpacked.files, unpacked.manifest
            log.add(f"Unpacked {len(files)} file{'s' if len(files) != 1 else ''}")
            _log_manifest(manifest, log)
            self._check_wishes(manifest)
            name = template_name(version.agent_id, version.id)
            self._validate(manifest, folder, files, log, name=name, key=_job_key(claim))
            log.add("Build completed successfully")
            status = VersionStatus.READY
        except BuildError as exc:
            log.add(f"Build failed: {exc}")
            status = VersionStatus.FAILED
        except ReadingCancelled as exc:
            raise BuildInterrupted from exc
        if not finish_build(version, claim, status, log.text(), manifest):
            logger.info("event=build_superseded version_id=%d", version.id)
            # The code belongs to the build that holds the claim now, if there is one: the agent may
            # have been deleted while its code was being unpacked.
            self._sandbox.templates.drop(template_name(version.agent_id, version.id))
            remove_if_gone(version, store=self._store)
        elif status is VersionStatus.READY:  # the version before it is not run any more
            name = template_name(version.agent_id, version.id)
            self._sandbox.templates.drop_all(template_name(version.agent_id), but=name)
        else:
            self._store.remove_code(version.agent_id, version.id)

    def _check_wishes(self, manifest: Manifest) -> None:
        """Refuse to promise what this server does not give. Raises BuildError."""
        if self._sandbox.refusal:
            raise BuildError(self._sandbox.refusal)
        check_limits(manifest.limits, self._caps)
        if manifest.allows_processes and not self._sandbox.ground.has_namespaces:
            raise BuildError(
                "subprocess: true needs namespaces, which this machine does not offer; "
                "`python3 run.py doctor` tells why"
            )

    def _is_wanted(self) -> bool:
        return not self._is_ending

    def _validate(
        self,
        manifest: Manifest,
        folder: Path,
        files: Sequence[str],
        log: BuildLog,
        *,
        name: str,
        key: str,
    ) -> None:
        """Import the entrypoint inside the sandbox. Raises BuildError."""
        job = Job(
            Mode.VALIDATE,
            build_limits(self._limits, manifest.limits, self._caps),
            str(folder),
            manifest.entrypoint,
            allows_processes=manifest.allows_processes,
        )
        outcome = self._import(name, job, manifest, log, key)
        if outcome.logs:
            log.add("The agent printed while it was imported:")
            log.add_output(outcome.logs)
        if outcome.reason is StopReason.CANCELLED:
            raise BuildInterrupted
        if outcome.reason is StopReason.SANDBOX_FAILURE:
            raise RuntimeError(outcome.message)
        if outcome.reason is not StopReason.RETURNED:
            raise BuildError(_explain(outcome, files))
        log.add(f"Imported {manifest.entrypoint} in {outcome.duration_ms} ms")

    def _import(self, name: str, job: Job, manifest: Manifest, log: BuildLog, key: str) -> Outcome:
        """Import, and stay imported for the runs to come where that can be."""
        if self._sandbox.templates.is_serving and not job.allows_processes:
            run_limits = execution_limits(self._run_limits, manifest.limits, self._caps)
            limits = template_limits(run_limits, self._limits)
            outcome = self._sandbox.templates.prepare(
                name,
                replace(job, mode=Mode.TEMPLATE, limits=limits),
                key=key,
                is_wanted=self._is_wanted,
            )
            if outcome.reason is StopReason.UNFIT:
                log.add(f"Every run will import it again: {outcome.message}")
                return replace(outcome, reason=StopReason.RETURNED)
            if outcome.reason not in _NO_VERDICT:
                return outcome
        return self._sandbox.run(job, key=key, is_wanted=self._is_wanted)


def _log_manifest(manifest: Manifest, log: BuildLog) -> None:
    log.add(f"Read {MANIFEST_NAME}: {manifest.name}, entrypoint {manifest.entrypoint}")
    if manifest.concurrency is not None:
        log.add(f"Of this agent {manifest.concurrency} may run at once (concurrency)")


def _explain(outcome: Outcome, files: Sequence[str]) -> str:
    """Say what is wrong with an entrypoint and how to mend it."""
    missing = one_line(outcome.details.get("missing_module"))
    if missing:
        return (
            f"{outcome.message}. The module {missing} is neither in the archive nor in Python's "
            f"standard library: put it into the archive beside {MANIFEST_NAME}. "
            f"Received: {_listed(files)}."
        )
    names = outcome.details.get("names")
    if isinstance(names, list):
        found = ", ".join(one_line(name) for name in names[:20]) or "none"
        return f"{outcome.message}. Functions found: {found}."
    if outcome.reason is StopReason.TIMEOUT:
        return f"Importing the entrypoint did not end. {outcome.message}"
    return outcome.message


def _listed(files: Sequence[str]) -> str:
    more = len(files) - _MAX_LISTED_FILES
    return ", ".join(files[:_MAX_LISTED_FILES]) + (f" and {more} more" if more > 0 else "")


def mark_building(version_id: int, claim: str) -> bool:
    """queued -> building, for the holder of `claim`; tells whether it is theirs."""
    now = utc_now()
    with write_transaction():
        changed = (
            AgentVersion.update(
                status=VersionStatus.BUILDING,
                claim=claim,
                attempts=AgentVersion.attempts + 1,
                updated_at=now,
            )
            .where(AgentVersion.id == version_id, AgentVersion.status == VersionStatus.QUEUED)
            .execute()
        )
    return bool(changed == 1)


def release_build(version_id: int, claim: str) -> bool:
    """building -> queued, for a build that was ended in order; it does not count as an attempt."""
    with write_transaction():
        changed = (
            AgentVersion.update(
                status=VersionStatus.QUEUED,
                claim=None,
                attempts=AgentVersion.attempts - 1,
                updated_at=utc_now(),
            )
            .where(
                AgentVersion.id == version_id,
                AgentVersion.claim == claim,
                AgentVersion.status == VersionStatus.BUILDING,
            )
            .execute()
        )
    return bool(changed == 1)


def finish_build(
    version: AgentVersion,
    claim: str,
    status: VersionStatus,
    build_log: str,
    manifest: Manifest | None,
) -> bool:
    """building -> ready or failed, if the claim still holds, with the agent in one transaction."""
    now = utc_now()
    with write_transaction():
        changed = (
            AgentVersion.update(
                status=status,
                build_log=build_log,
                entrypoint=manifest.entrypoint if manifest else None,
                config=manifest.text if manifest else None,
                limits=json.dumps(dict(manifest.limits)) if manifest else None,
                allows_processes=manifest is not None and manifest.allows_processes,
                concurrency=manifest.concurrency if manifest else None,
                claim=None,
                updated_at=now,
            )
            .where(
                AgentVersion.id == version.id,
                AgentVersion.claim == claim,
                AgentVersion.status == VersionStatus.BUILDING,
            )
            .execute()
        )
        if changed:
            refresh_agent(version.agent_id)
    return bool(changed == 1)


def refresh_agent(agent_id: int) -> None:
    """Make an agent's status and current version follow from its versions; in a transaction."""
    agent = Agent.get_or_none(Agent.id == agent_id)
    if agent is None:
        return
    current = (
        AgentVersion.select(fn.MAX(AgentVersion.id))
        .where(AgentVersion.agent == agent_id, AgentVersion.status == VersionStatus.READY)
        .scalar()
    )
    is_archived = agent.status == AgentStatus.ARCHIVED
    status = agent.status if is_archived else derive_status(agent_id)
    if (status, current) != (agent.status, agent.current_version_id):
        Agent.update(status=status, current_version_id=current, updated_at=utc_now()).where(
            Agent.id == agent_id
        ).execute()
