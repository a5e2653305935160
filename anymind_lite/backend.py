"""The composition root: makes every part of the server, wires them, starts and stops them."""

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from anymind_lite.archive import ArchiveLimits
from anymind_lite.clock import SteadyClock
from anymind_lite.config import Settings
from anymind_lite.credentials import PasswordHasher, load_secret_key
from anymind_lite.database import open_database, open_to_read, search_damage
from anymind_lite.errors import StartupError
from anymind_lite.files import make_dir_durable
from anymind_lite.reader.in_server import Reader
from anymind_lite.sandbox.in_server.supervisor import Supervisor
from anymind_lite.sandbox.policy import Tier
from anymind_lite.sandbox.protocol import let_agents_pass
from anymind_lite.services.api_keys import KeyUsage
from anymind_lite.services.builds import Builder
from anymind_lite.services.executions import write_kept_ends
from anymind_lite.services.executor import Executor
from anymind_lite.services.idempotency import STEADY_SECONDS, forget_expired
from anymind_lite.services.limits import operator_caps, operator_limits, warm_memory_bytes
from anymind_lite.services.readiness import Readiness, ReadinessLog, check_readiness
from anymind_lite.services.recovery import (
    close_orphans,
    hint_queued,
    recover_at_start,
    requeue_orphans,
    sweep_artifacts,
)
from anymind_lite.services.retention import Keep, Retention
from anymind_lite.services.slots import SlotPool
from anymind_lite.storage import ArtifactStore, DiskReserve
from anymind_lite.tasks import BuildQueue

logger = logging.getLogger(__name__)

_REPAIR_SECONDS = 5.0
_KEY_USAGE_SECONDS = 60.0
_FORGET_SECONDS = 600.0
_LAST_ROWS_SECONDS = 15.0  # more than a write waits for another program
_RETENTION_SECONDS = 300.0
_READER_SECONDS = 60.0

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


class Backend:
    """A whole server but for HTTP. `start()` does everything, `stop()` undoes it.

    One backend per process at a time: the models are bound to its database.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.passwords = PasswordHasher(settings.password_hash_rounds)
        self.key_usage = KeyUsage()
        self.secret_key = ""
        self.reader = Reader(
            ArchiveLimits(
                max_bytes=settings.unpacked_max_bytes, max_files=settings.unpacked_max_files
            )
        )
        self.store = ArtifactStore(
            settings.storage_path,
            settings.code_path,
            max_upload_bytes=settings.upload_max_bytes,
            is_tar_gz=self.reader.is_tar_gz,
        )
        on_data = (settings.data_dir, settings.database_path.parent)
        reserve = settings.disk_reserve_bytes
        self.disk = DiskReserve(*on_data, reserve_bytes=reserve)
        self.upload_disk = DiskReserve(*on_data, settings.storage_path, reserve_bytes=reserve)
        self._key_clock = SteadyClock(STEADY_SECONDS)
        self.retention = Retention(
            Keep(settings.execution_retention_days, settings.execution_retention_count)
        )
        self.sandbox = Supervisor(
            settings.run_path / "scratch",
            settings.code_path,
            min_tier=Tier(settings.min_tier),
            warm_memory_bytes=warm_memory_bytes(settings),
        )
        import_limits = operator_limits(settings, settings.build_timeout_seconds)
        run_limits = operator_limits(settings, settings.execution_timeout_seconds)
        self.executor = Executor(
            slots=SlotPool(
                settings.worker_concurrency,
                settings.execution_queue_size,
                settings.execution_queue_timeout_seconds,
            ),
            sandbox=self.sandbox,
            store=self.store,
            limits=run_limits,
            import_limits=import_limits,
            caps=operator_caps(settings),
            reader=self.reader,
            disk=self.disk,
        )
        self._builder = Builder(
            store=self.store,
            sandbox=self.sandbox,
            limits=import_limits,
            run_limits=run_limits,
            caps=operator_caps(settings),
            reader=self.reader,
            disk=self.disk,
        )
        self.build_queue = BuildQueue(
            settings.queue_path,
            workers=settings.build_workers,
            build=self._build,
            interrupt=self._builder.interrupt,
        )
        self._readiness_log = ReadinessLog()
        self._hinting = threading.Lock()
        self._resources = ExitStack()

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Take the data folder, repair what the last server left, start every part.

        `meanwhile` is called while the sandbox starts, which is the work of another process. Raises
        StartupError, leaving nothing running.
        """
        try:
            self._start(meanwhile)
        except OSError as exc:
            self._resources.close()
            raise StartupError(f"Cannot use the data folder: {exc}") from exc
        except BaseException:
            self._resources.close()
            raise

    def _start(self, meanwhile: Callable[[], None]) -> None:
        settings, undo = self.settings, self._resources.callback
        make_dir_durable(settings.data_dir)
        settings.run_path.mkdir(mode=0o700, exist_ok=True)
        for folder in (settings.data_dir, settings.run_path):
            let_agents_pass(folder)
        self._resources.enter_context(InstanceLock(settings.run_path / "server.lock"))
        _refuse_unfinished_restore(settings)
        self.secret_key = load_secret_key(settings.secret_key_path, settings.secret_key)
        make_dir_durable(settings.database_path.parent)
        _refuse_lost_database(settings)
        # The store makes the folder of all code, which the zygote holds on to.
        self.store.start()
        # The sandbox first: it divides this process's control group only if nobody else is in it.
        self.sandbox.start(meanwhile)
        undo(self.sandbox.stop)
        self.reader.start()
        undo(self.reader.stop)
        undo(_every(_READER_SECONDS, self.reader.end_if_idle, name="reader-idle"))
        self._database = database = open_database(
            settings.database_path, backups=settings.backups_path
        )
        undo(database.close_all)
        undo(search_damage(database))
        recover_at_start()
        sweep_artifacts(self.store)
        self._builder.begin()
        self.build_queue.start()
        undo(self.build_queue.stop)
        self._hint_queued()
        undo(self._write_last_ends)
        undo(_every(_REPAIR_SECONDS, self._repair, name="repair"))
        self.retention.begin()
        undo(_every(_RETENTION_SECONDS, self.retention.sweep, name="retention"))
        undo(self.retention.interrupt)
        undo(_every(_FORGET_SECONDS, self._forget_keys, name="idempotency-keys"))
        undo(self._flush_key_usage)
        undo(_every(_KEY_USAGE_SECONDS, self._flush_key_usage, name="key-usage"))
        self.executor.begin()
        logger.info("event=started data_dir=%s", settings.data_dir)

    def _build(self, version_id: int) -> None:
        """Build a version; who takes the last hint does not leave the next ones to the timer."""
        if self._builder.build_version(version_id):
            self._hint_queued()

    def _hint_queued(self) -> None:
        with self._hinting:  # or two would find the queue empty and double every hint
            hint_queued(self.build_queue)

    def _repair(self) -> None:
        if self._database.damage:
            return
        write_kept_ends(self.executor)
        requeue_orphans(self._builder.claims)
        close_orphans(self.executor.held)
        self._hint_queued()

    def _write_last_ends(self) -> None:
        write_kept_ends(self.executor)
        for execution_id, _ in self.executor.kept_ends():
            logger.error("event=end_lost execution_id=%d", execution_id)

    def _flush_key_usage(self) -> None:
        """Write when keys were last used; at the end of the server a full disk must not stop it."""
        try:
            self.key_usage.flush()
        except Exception:
            logger.exception("event=key_usage_not_written")

    def _forget_keys(self) -> None:
        forget_expired(self._key_clock)

    def readiness(self) -> Readiness:
        """Tell whether every part can do its work now."""
        return check_readiness(
            build_queue=self.build_queue,
            sandbox=self.sandbox,
            disk=self.upload_disk,
            is_stopping=self.executor.slots.is_closed,
            log=self._readiness_log,
        )

    def drain(self, timeout_seconds: float) -> bool:
        """Take no more executions and wait for those that run; tells whether all ended."""
        self.executor.slots.close()
        return self.executor.slots.wait_until_idle(timeout_seconds)

    def stop(self) -> None:
        """Stop every part; running builds are given back and running executions killed.

        What runs ends first, and writes its last row, while the database is still open.
        """
        self.executor.slots.close()
        self.build_queue.stop()
        self.executor.interrupt()
        self.reader.stop()
        self.sandbox.stop()
        self.executor.slots.wait_until_idle(_LAST_ROWS_SECONDS)
        self.executor.end()
        self._resources.close()
        logger.info("event=stopped")


class InstanceLock:
    """Keeps a second server off the data folder (flock(2)); the kernel drops it at any death."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "InstanceLock":
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(self._fd, 100).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StartupError(
                f"Another server (pid {holder}) uses the data folder {self._path.parent.parent}. "
                "Stop it, or choose another folder with --data."
            ) from exc
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _refuse_unfinished_restore(settings: Settings) -> None:
    """Refuse to begin with half of a backup. Raises StartupError."""
    if settings.restore_mark_path.exists():
        raise StartupError(
            f"A restore into {settings.data_dir} did not come to its end. Repeat it: "
            "python3 run.py restore FILE"
        )


def _refuse_lost_database(settings: Settings) -> None:
    """Refuse to begin anew beside old artifacts: new ids would take, and later delete, their files.

    An artifact without a row beside a database with users is no sign of that: a server that is
    killed during the first upload leaves one. Raises StartupError.
    """
    path = settings.database_path
    if _is_begun_anew(path) and any(settings.storage_path.glob("agents/**/*.tar.gz")):
        raise StartupError(
            f"The database {path} is missing, but {settings.storage_path} holds artifacts. "
            "Restore the database from a backup, or move the artifacts away to begin anew."
        )


def _is_begun_anew(path: Path) -> bool:
    """Tell whether a database is missing, or holds nobody who could own an artifact.

    One that cannot be read, or is another program's, is not: `open_database` says what it is.
    """
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with closing(open_to_read(path)) as connection:
            tables = {name for (name,) in connection.execute(_TABLES)}
            if "schema_migration" in tables and "user" in tables:
                return connection.execute("SELECT 1 FROM user LIMIT 1").fetchone() is None
            return tables <= {"schema_migration"}
    except sqlite3.Error:
        return False


def _every(seconds: float, action: Callable[[], object], *, name: str) -> Callable[[], None]:
    """Call `action` every so many seconds on a thread; return what ends and joins it."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(seconds):
            try:
                action()
            except Exception:
                logger.exception("event=background_failed name=%s", name)

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end
