"""Backups: what is saved comes back, what is damaged is refused whole, kills leave nothing half."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from playhouse.migrations import Runner

from anymind_lite import backup_file
from anymind_lite.backend import Backend, InstanceLock
from anymind_lite.backup_file import Contents, write_end, write_member
from anymind_lite.config import Settings, load_settings
from anymind_lite.database import (
    MIGRATIONS_DIR,
    ServerDatabase,
    copy_database,
    open_database,
    write_transaction,
)
from anymind_lite.errors import BackupError, StartupError
from anymind_lite.models import Agent, User
from anymind_lite.services import backups
from anymind_lite.services.agents import create_agent
from anymind_lite.services.backups import make_backup
from anymind_lite.services.restores import restore_backup
from anymind_lite.services.versions import create_version
from anymind_lite.storage import ArtifactStore
from tests.unit.conftest import Rows
from tests.waiting import DEADLINE_SECONDS

ROOT = Path(__file__).parent.parent.parent


class NoQueue:
    """Takes no hints; nothing is built here."""

    def enqueue(self, version_id: int) -> None:
        pass


def settings_of(data: Path, **variables: str) -> Settings:
    environ = {"DATA_DIR": str(data), **variables}
    return load_settings(data.parent, environ=environ).settings


def store_of(settings: Settings) -> ArtifactStore:
    store = ArtifactStore(
        settings.storage_path, settings.code_path, max_upload_bytes=10**7, is_tar_gz=lambda _: True
    )
    store.start()
    return store


def fill(settings: Settings) -> None:
    """Make a data folder as a server leaves it: two agents with three versions, and a key."""
    settings.data_dir.mkdir(mode=0o700, parents=True)
    opened = open_database(settings.database_path)
    store, user = store_of(settings), Rows().user()
    for content in (b"one", b"two"):
        agent = create_agent(user, "agent")
        for size in range(agent.id):
            create_version(
                user,
                agent.id,
                filename="a.tar.gz",
                chunks=[content * (1 + 300 * size)],
                store=store,
                build_queue=NoQueue(),  # type: ignore[arg-type]
            )
    opened.close_all()
    settings.secret_key_path.write_text("5" * 128 + "\n")


@dataclass(frozen=True)
class State:
    """What a data folder holds that counts."""

    rows: tuple[str, ...]
    artifacts: dict[str, bytes]
    key: bytes


def state_of(settings: Settings) -> State:
    with closing(sqlite3.connect(settings.database_path)) as connection:
        rows = tuple(connection.iterdump())
    root, key = settings.storage_path, settings.secret_key_path
    return State(
        rows,
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.tar.gz")},
        key.read_bytes() if key.exists() else b"",
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A filled data folder that nobody changes."""
    settings = settings_of(tmp_path_factory.mktemp("site") / "data")
    fill(settings)
    return settings


@pytest.fixture(scope="module")
def saved(site: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    path = tmp_path_factory.mktemp("saved") / "saved.tar"
    make_backup(site, path)
    return path


@pytest.fixture
def own(site: Settings, tmp_path: Path) -> Settings:
    """A copy of the filled data folder, to be changed."""
    shutil.copytree(site.data_dir, tmp_path / "own")
    return settings_of(tmp_path / "own")


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    """A data folder that is not there yet."""
    return settings_of(tmp_path / "empty")


def restore(path: Path, settings: Settings) -> Contents:
    return restore_backup(path, settings, lock=nullcontext())


def files_below(folder: Path) -> list[str]:
    """Return what is there but for the folder of the lock."""
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in found if not name.startswith("run/"))


class TestSavingAndRestoring:
    def test_what_was_saved_comes_back(self, site: Settings, saved: Path, empty: Settings) -> None:
        contents = restore(saved, empty)
        state = state_of(empty)
        assert state == state_of(site)
        assert (contents.artifacts, contents.missing, len(state.artifacts)) == (3, 0, 3)
        assert state.key

    def test_nothing_stays_but_what_a_server_has(self, saved: Path, empty: Settings) -> None:
        restore(saved, empty)
        artifacts = [name for name in files_below(empty.data_dir) if "agents/" in name]
        others = set(files_below(empty.data_dir)) - set(artifacts)
        assert others == {"anymind.sqlite3", "secret.key"}
        for path in empty.data_dir.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    def test_a_backup_is_its_owners_alone_and_alone(self, saved: Path) -> None:
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        assert os.listdir(saved.parent) == [saved.name]

    def test_any_tar_program_reads_it(self, site: Settings, saved: Path) -> None:
        with tarfile.open(saved) as archive:
            names = archive.getnames()
            for name, content in state_of(site).artifacts.items():
                member = archive.extractfile(f"artifacts/{name}")
                assert member is not None
                assert member.read() == content
        assert names[-3:] == ["anymind.sqlite3", "secret.key", "backup.json"]

    def test_settings_that_lead_elsewhere_are_obeyed(
        self, site: Settings, saved: Path, tmp_path: Path
    ) -> None:
        elsewhere = settings_of(
            tmp_path / "data",
            DATABASE_URL=f"sqlite:///{tmp_path}/other/rows.sqlite3",
            STORAGE_PATH=str(tmp_path / "third"),
        )
        restore(saved, elsewhere)
        assert files_below(tmp_path / "data") == ["secret.key"]
        assert files_below(tmp_path / "other") == ["rows.sqlite3"]
        assert state_of(elsewhere) == state_of(site)
        make_backup(elsewhere, tmp_path / "again.tar")
        with tarfile.open(saved) as one, tarfile.open(tmp_path / "again.tar") as other:
            assert one.getnames() == other.getnames()

    def test_a_configured_key_is_not_saved(self, site: Settings, empty: Settings) -> None:
        configured = settings_of(site.data_dir, SECRET_KEY="s" * 64)
        path = empty.data_dir.parent / "x.tar"
        assert not make_backup(configured, path).has_secret_key
        assert b"5" * 128 not in path.read_bytes()
        assert restore(path, empty).secret_key_sha256 == ""
        assert not empty.secret_key_path.exists()

    def test_what_a_server_left_in_its_log_is_saved(self, own: Settings, empty: Settings) -> None:
        opened = open_database(own.database_path)
        User.update(full_name="only in the log").execute()
        path = own.data_dir.parent / "x.tar"
        make_backup(own, path)
        wal = own.database_path.with_name(own.database_path.name + "-wal")
        assert wal.stat().st_size > 0  # the copy's reader took nothing out of it
        opened.close_all()
        restore(path, empty)
        assert "only in the log" in "".join(state_of(empty).rows)

    def test_a_backup_of_an_older_version_is_upgraded_by_the_first_start(
        self, tmp_path: Path
    ) -> None:
        old, new = settings_of(tmp_path / "old"), settings_of(tmp_path / "new")
        old.data_dir.mkdir()
        opened = ServerDatabase(old.database_path)
        Runner(opened, directory=str(MIGRATIONS_DIR)).up("0001_initial")
        opened.close_all()
        make_backup(old, tmp_path / "x.tar")
        assert restore(tmp_path / "x.tar", new).schema == "0001_initial"
        assert state_of(new) == state_of(old)
        open_database(new.database_path, backups=new.backups_path).close_all()
        assert len(list(new.backups_path.iterdir())) == 1

    def test_what_an_operator_added_to_the_schema_is_saved(
        self, own: Settings, empty: Settings
    ) -> None:
        with closing(sqlite3.connect(own.database_path)) as connection:
            connection.execute("CREATE VIEW people AS SELECT email FROM user")
        make_backup(own, own.data_dir.parent / "x.tar")
        restore(own.data_dir.parent / "x.tar", empty)
        assert state_of(empty) == state_of(own)

    def test_large_sizes_are_written_as_tar_programs_do(self) -> None:
        header = backup_file._header("artifacts/x", 9 * 2**30)
        assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 * 2**30
        assert backup_file._read_header(header) == ("artifacts/x", 9 * 2**30)


# What backup refuses ------------------------------------------------------------------------------


def no_database(settings: Settings, target: Path) -> str:
    settings.database_path.unlink()
    return "nothing to back up.*--data"


def a_file(settings: Settings, target: Path) -> str:
    target.write_text("mine")
    return "exists, and is not overwritten"


def a_dangling_link(settings: Settings, target: Path) -> str:
    target.symlink_to(target.parent / "nowhere")
    return "exists, and is not overwritten"


def no_folder(settings: Settings, target: Path) -> str:
    target.parent.rmdir()
    return "cannot be written to"


def damaged_database(settings: Settings, target: Path) -> str:
    content = settings.database_path.read_bytes()
    settings.database_path.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    return "malformed|damaged|cannot be"


def foreign_database(settings: Settings, target: Path) -> str:
    settings.database_path.unlink()
    with closing(sqlite3.connect(settings.database_path)) as connection:
        connection.execute("CREATE TABLE user (name TEXT)")
    return "cannot be read"


def another_backup(settings: Settings, target: Path) -> str:
    fd = os.open(target.with_name(".anymind-backup.tar"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return "Another backup is being written"


@pytest.mark.parametrize(
    "spoil",
    [
        no_database,
        a_file,
        a_dangling_link,
        no_folder,
        damaged_database,
        foreign_database,
        another_backup,
    ],
)
def test_a_backup_that_cannot_be_made_leaves_all_as_it_was(
    own: Settings, tmp_path: Path, spoil: Callable[[Settings, Path], str]
) -> None:
    target = tmp_path / "target" / "saved.tar"
    target.parent.mkdir()
    expected = spoil(own, target)
    before = files_below(tmp_path / "target")
    with pytest.raises(BackupError, match=expected):
        make_backup(own, target)
    assert files_below(tmp_path / "target") == before
    if target.is_file():
        assert target.read_text() == "mine"
    assert own.database_path.exists() is (spoil is not no_database)


@pytest.mark.parametrize("place", ["code", "run", "artifacts"])
def test_a_backup_does_not_go_where_the_server_sweeps(own: Settings, place: str) -> None:
    before = files_below(own.data_dir)
    with pytest.raises(BackupError, match="the server's own"):
        make_backup(own, own.data_dir / place / "x.tar")
    assert files_below(own.data_dir) == before
    make_backup(own, own.data_dir / "x.tar")


def test_without_permission_the_fix_is_told(own: Settings, tmp_path: Path) -> None:
    own.database_path.chmod(0)
    if os.access(own.database_path, os.R_OK):
        pytest.skip("root reads every file")
    with pytest.raises(BackupError, match="Run this as the user that serves"):
        make_backup(own, tmp_path / "x.tar")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_a_full_disk_is_told_and_nothing_stays_on_it(site: Settings, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    script = (
        'mount -t tmpfs -o size=64k none "$0" || exit 77; "$@"; status=$?;'
        ' ls -A "$0" >&2; exit $status'
    )
    command = [sys.executable, str(ROOT / "run.py"), "backup", str(full / "x.tar")]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(full), *command, "--data", str(site.data_dir)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: The disk of {full} is full; nothing was kept there.")
    assert "anymind-backup" not in done.stderr


# Artifacts that are not there ---------------------------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [missing, flipped, shorter, longer, a_folder])
@pytest.mark.parametrize("number", range(3))
def test_a_lost_artifact_is_named_and_the_rest_is_saved(
    own: Settings, empty: Settings, spoil: Callable[[Path], None], number: int
) -> None:
    before = state_of(own)
    lost = sorted(before.artifacts)[number]
    spoil(own.storage_path / lost)
    path = own.data_dir.parent / "x.tar"
    assert make_backup(own, path).lost == (lost,)
    assert restore(path, empty).missing == 1
    kept = {name: content for name, content in before.artifacts.items() if name != lost}
    assert state_of(empty) == State(before.rows, kept, before.key)


def delete(settings: Settings, agent_id: int) -> None:
    """Delete an agent as a server does: its rows first, then its files."""
    opened = open_database(settings.database_path)
    with write_transaction():
        Agent.delete().where(Agent.id == agent_id).execute()
    store_of(settings).remove_agent(agent_id)
    opened.close_all()


@pytest.mark.parametrize("victim", [1, 2])
def test_an_agent_that_is_deleted_meanwhile_is_left_out_and_no_other(
    own: Settings, empty: Settings, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    def copy_then_delete(source: Path, target: Path) -> None:
        copy_database(source, target)
        delete(own, victim)

    monkeypatch.setattr(backups, "copy_database", copy_then_delete)
    path = own.data_dir.parent / "x.tar"
    backup = make_backup(own, path)
    assert backup.lost == ()
    assert restore(path, empty).missing == 0
    after = state_of(empty)
    assert after == state_of(own)
    assert len(after.artifacts) == 3 - victim
    assert all(f"agents/{victim}/" not in name for name in after.artifacts)


def test_files_of_a_deleted_agent_that_were_saved_already_are_taken_back(
    own: Settings, empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = backups._write_artifact
    seen = []

    def write_then_delete(file: io.BufferedRandom, artifact: backups.Artifact, root: Path) -> bool:
        was_written = write(file, artifact, root)
        seen.append((artifact.agent_id, was_written))
        if seen == [(1, True), (2, True)]:  # the first of two
            delete(own, 2)
        return was_written

    monkeypatch.setattr(backups, "_write_artifact", write_then_delete)
    path = own.data_dir.parent / "x.tar"
    make_backup(own, path)
    assert seen == [(1, True), (2, True), (2, False)]
    restore(path, empty)
    assert state_of(empty) == state_of(own)


# What restore refuses -----------------------------------------------------------------------------


def members_of(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        return {
            one.name: b"".join(backup_file.read_pieces(file, one))
            for one in list(backup_file.list_members(file))
        }


def write_members(path: Path, members: list[tuple[str, bytes]]) -> None:
    with path.open("wb") as file:
        for name, content in members:
            write_member(file, name, len(content), [content])
        write_end(file)


Members = list[tuple[str, bytes]]
ARTIFACT = f"artifacts/agents/9/artifacts/agent_9_{'0' * 12}.tar.gz"


def with_contents(members: Members, **changes: object) -> Members:
    values = json.loads(dict(members)["backup.json"])
    text = json.dumps({**values, **changes}).encode()
    return [*members[:-1], ("backup.json", text)]


def with_database(members: Members, tmp_path: Path, sql: str) -> Members:
    """Change the database and have the backup vouch for it, as somebody could."""
    path = tmp_path / "changed.sqlite3"
    path.write_bytes(dict(members)["anymind.sqlite3"])
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)
    changed = [(n, path.read_bytes() if n == "anymind.sqlite3" else c) for n, c in members]
    return with_contents(changed, database_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


NEWER = "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01')"
MORE = (
    "INSERT INTO agent_version (agent_id, number, status, tarball_path, tarball_sha256, "
    "tarball_bytes, attempts, created_at, updated_at) "
    "VALUES (1, 9, 'queued', 'x', '', 1, 0, '', '')"
)

CRAFTED: dict[str, Callable[[Members, Path], Members]] = {
    "an unknown member": lambda m, _: [("notes.txt", b"x"), *m],
    "a name that climbs": lambda m, _: [("artifacts/agents/../../../x.tar.gz", b"x"), *m],
    "an absolute name": lambda m, _: [("/etc/cron.d/x", b"x"), *m],
    "an empty name": lambda m, _: [("", b"x"), *m],
    "an artifact that no row names": lambda m, _: [(ARTIFACT, b"x"), *m],
    "an artifact twice": lambda m, _: [m[0], *m],
    "an artifact too few": lambda m, _: m[1:],
    "one replaced by another": lambda m, _: [(m[0][0], m[1][1]), *m[1:]],
    "two databases": lambda m, _: [m[3], *m],
    "no database": lambda m, _: [one for one in m if one[0] != "anymind.sqlite3"],
    "no key though it tells of one": lambda m, _: [one for one in m if one[0] != "secret.key"],
    "another key": lambda m, _: [(n, b"k" if n == "secret.key" else c) for n, c in m],
    "a key without end": lambda m, _: [(n, b"k" * 10**5 if n == "secret.key" else c) for n, c in m],
    "no contents": lambda m, _: m[:-1],
    "something after the contents": lambda m, _: [*m, m[0]],
    "contents that are no JSON": lambda m, _: [*m[:-1], ("backup.json", b"{")],
    "contents that are a list": lambda m, _: [*m[:-1], ("backup.json", b"[]")],
    "contents without end": lambda m, _: [*m[:-1], ("backup.json", b" " * 10**5)],
    "another format": lambda m, _: with_contents(m, format=2),
    "a count that is text": lambda m, _: with_contents(m, artifacts="3"),
    "a key of JSON too many": lambda m, _: with_contents(m, more=1),
    "an instant that is none": lambda m, _: with_contents(m, created_at="\x1b[2J"),
    "more artifacts told": lambda m, _: with_contents(m, artifacts=4),
    "more missing told": lambda m, _: with_contents(m, missing=1),
    "another schema told": lambda m, _: with_contents(m, schema="0001_initial"),
    "another database told": lambda m, _: with_contents(m, database_sha256="0" * 64),
    "a newer schema": lambda m, p: with_contents(with_database(m, p, NEWER), schema="9999_later"),
    "a row without its artifact": lambda m, p: with_database(m, p, MORE),
    "a damaged database": lambda m, _: with_contents(
        [(n, b"x" * 9000 if n == "anymind.sqlite3" else c) for n, c in m],
        database_sha256=hashlib.sha256(b"x" * 9000).hexdigest(),
    ),
}


def assert_refused(path: Path, settings: Settings) -> None:
    with pytest.raises(BackupError):
        restore(path, settings)
    assert not settings.data_dir.exists() or files_below(settings.data_dir) == []


@pytest.mark.parametrize("name", CRAFTED)
def test_a_backup_that_we_did_not_write_is_refused_whole(
    saved: Path, empty: Settings, tmp_path: Path, name: str
) -> None:
    changed = tmp_path / "changed.tar"
    write_members(changed, CRAFTED[name](list(members_of(saved).items()), tmp_path))
    assert_refused(changed, empty)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"x", b"g", b"L", b"K", b"S"])
def test_what_is_no_plain_file_is_refused(
    saved: Path, empty: Settings, tmp_path: Path, kind: bytes
) -> None:
    with tarfile.open(saved) as old, tarfile.open(tmp_path / "x.tar", "w") as new:
        for member in old.getmembers():
            content = old.extractfile(member)
            if member.name == "secret.key":
                member.type, member.linkname = kind, "/etc/passwd"
            new.addfile(member, content)
    assert_refused(tmp_path / "x.tar", empty)


def test_what_a_killed_backup_left_is_swept(site: Settings, tmp_path: Path) -> None:
    for name in ("tar", "sqlite3", "sqlite3-journal"):
        (tmp_path / f".anymind-backup.{name}").write_bytes(b"left by a backup that was killed")
    make_backup(site, tmp_path / "x.tar")
    assert os.listdir(tmp_path) == ["x.tar"]
    restore(tmp_path / "x.tar", settings_of(tmp_path / "data"))


def test_the_same_tar_made_by_another_program_is_refused(
    saved: Path, empty: Settings, tmp_path: Path
) -> None:
    with tarfile.open(saved) as old, tarfile.open(tmp_path / "x.tar", "w") as new:
        for member in old.getmembers():
            member.mtime = 1
            new.addfile(member, old.extractfile(member))
    assert_refused(tmp_path / "x.tar", empty)


def cuts(length: int) -> Iterator[int]:
    yield from range(0, length, 499)
    for edge in range(512, length, 4096):
        yield from (edge - 1, edge, edge + 1)
    yield from range(length - 1100, length, 37)


def test_a_backup_cut_short_anywhere_is_refused(
    saved: Path, empty: Settings, tmp_path: Path
) -> None:
    whole, cut = saved.read_bytes(), tmp_path / "cut.tar"
    for length in cuts(len(whole)):
        cut.write_bytes(whole[:length])
        assert_refused(cut, empty)


@pytest.mark.parametrize("tail", [b"\0", b"x", bytes(512), bytes(10240)])
def test_what_follows_the_end_is_refused(
    saved: Path, empty: Settings, tmp_path: Path, tail: bytes
) -> None:
    (tmp_path / "x.tar").write_bytes(saved.read_bytes() + tail)
    assert_refused(tmp_path / "x.tar", empty)


def flips(length: int) -> Iterator[int]:
    yield from range(0, 600, 13)
    yield from range(600, length, 499)


@pytest.mark.slow
def test_a_flipped_bit_changes_nothing_that_is_restored(
    site: Settings, saved: Path, tmp_path: Path
) -> None:
    whole, damaged = bytearray(saved.read_bytes()), tmp_path / "damaged.tar"
    refused = 0
    for number, at in enumerate(flips(len(whole))):
        settings = settings_of(tmp_path / str(number))
        whole[at] ^= 1 << number % 8
        damaged.write_bytes(whole)
        whole[at] ^= 1 << number % 8
        try:
            restore(damaged, settings)
        except BackupError:
            refused += 1
            assert not settings.data_dir.exists() or files_below(settings.data_dir) == []
        else:  # a digit of the version or of the instant
            assert state_of(settings) == state_of(site)
    assert refused >= len(list(flips(len(whole)))) - 3


@pytest.mark.parametrize(
    "path", ["anymind.sqlite3", "anymind.sqlite3-wal", "anymind.sqlite3-journal"]
)
def test_a_standing_database_is_never_touched(saved: Path, empty: Settings, path: str) -> None:
    empty.data_dir.mkdir()
    (empty.data_dir / path).write_text("mine")
    with pytest.raises(BackupError, match="overwrites nothing"):
        restore(saved, empty)
    assert files_below(empty.data_dir) == [path]
    assert (empty.data_dir / path).read_text() == "mine"


def test_standing_artifacts_are_never_touched(saved: Path, empty: Settings) -> None:
    mine = empty.storage_path / "agents" / "1" / "artifacts" / "mine.tar.gz"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(BackupError, match="overwrites nothing"):
        restore(saved, empty)
    assert files_below(empty.data_dir) == [str(mine.relative_to(empty.data_dir))]


def test_another_key_is_never_overwritten(saved: Path, empty: Settings) -> None:
    empty.data_dir.mkdir()
    empty.secret_key_path.write_text("other")
    with pytest.raises(BackupError, match="differs from the key"):
        restore(saved, empty)
    assert empty.secret_key_path.read_text() == "other"
    empty.secret_key_path.write_text("5" * 128 + "\n")
    restore(saved, empty)


def test_a_server_on_the_folder_is_told(saved: Path, empty: Settings) -> None:
    empty.run_path.mkdir(parents=True)
    path = empty.run_path / "server.lock"
    with InstanceLock(path), pytest.raises(StartupError, match="Another server"):
        restore_backup(saved, empty, lock=InstanceLock(path))
    assert files_below(empty.data_dir) == []


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo, lambda p: None])
def test_what_is_no_file_is_told(
    empty: Settings, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x.tar")
    assert_refused(tmp_path / "x.tar", empty)


# Killed in the middle -----------------------------------------------------------------------------

# Kills itself before it looks at or changes a file below a folder for the nth time.
KILLED = """
import os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from anymind_lite.config import load_settings
from anymind_lite.services.backups import make_backup
from anymind_lite.services.restores import restore_backup

kind, backup, data, number = sys.argv[1:]
left = int(number)
watched = (os.path.dirname(backup) if kind == "backup" else data)

def count(event, arguments):
    global left
    if event.startswith(("open", "os.", "sqlite3", "fcntl")) and event != "os.kill":
        named = any(isinstance(a, (str, os.PathLike)) and watched in str(a) for a in arguments)
        left -= named or event.startswith("fcntl")
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

settings = load_settings(Path(data).parent, environ={"DATA_DIR": data}).settings
sys.addaudithook(count)
if kind == "backup":
    make_backup(settings, Path(backup))
else:
    restore_backup(Path(backup), settings, lock=nullcontext())
"""


def killed_at(number: int, kind: str, backup: Path, data: Path) -> bool:
    """Run one of the two until its nth step; tell whether it was killed before its end."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, kind, str(backup), str(data), str(number)],
        cwd=ROOT,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.slow
def test_a_backup_that_is_killed_leaves_no_file_of_its_name(site: Settings, tmp_path: Path) -> None:
    steps = 0
    while True:
        target = tmp_path / str(steps) / "saved.tar"
        target.parent.mkdir()
        was_killed = killed_at(steps, "backup", target, site.data_dir)
        if target.exists():
            restore(target, settings_of(tmp_path / f"whole{steps}"))
        else:
            left = {".anymind-backup.tar", ".anymind-backup.sqlite3"}
            assert set(os.listdir(target.parent)) <= left
        make_backup(site, target.with_name("next.tar"))
        assert set(os.listdir(target.parent)) <= {"saved.tar", "next.tar"}
        if not was_killed:
            break
        steps += 1
    assert steps > 8


@pytest.mark.slow
def test_a_restore_that_is_killed_is_made_good_by_the_next(
    site: Settings, saved: Path, tmp_path: Path
) -> None:
    expected, steps, refusals = state_of(site), 0, 0
    while True:
        settings = settings_of(tmp_path / str(steps) / "data")
        was_killed = killed_at(steps, "restore", saved, settings.data_dir)
        has_something = settings.database_path.exists() or settings.storage_path.exists()
        if was_killed and has_something and settings.restore_mark_path.exists():
            refusals += 1
            with pytest.raises(StartupError, match="did not come to its end"):
                Backend(settings).start()
        elif has_something:
            assert state_of(settings) == expected
        if was_killed and (settings.restore_mark_path.exists() or not has_something):
            if settings.database_path.exists():
                with pytest.raises(BackupError, match="holds all of a backup already"):
                    restore(saved, settings)
            else:
                restore(saved, settings)
        assert state_of(settings) == expected
        assert not settings.restore_mark_path.exists()
        assert not [name for name in files_below(settings.data_dir) if "restoring" in name]
        if not was_killed:
            break
        steps += 1
    assert steps > 20
    assert refusals > 10
