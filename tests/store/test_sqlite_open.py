"""What SQLite's store refuses to open, with the file left as it was; and what it makes sure of when it opens one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from relight.conformance.world import World
from relight.errors import (
    ConfigError,
    SchemaOutdated,
    SchemaTooNew,
    StorageCorrupt,
    StorageUnavailable,
    UnsafeSqlite,
)
from relight.model import Durability
from relight.store.migrate import load_migrations
from relight.store.open import store_at
from relight.store.sqlite import SqliteStore, connect


def made(path: Path) -> Path:
    """Make a store with a job in it, and close it."""
    with World(lambda: SqliteStore(path, durability="process")) as world:
        world.client().submit()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relight.db"


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def by_hand(path: Path, *statements: str) -> None:
    """Run statements on a file with a connection of our own."""
    db = apsw.Connection(os.fspath(path))
    for statement in statements:
        db.execute(statement)
    db.close()


# pragmas


@pytest.mark.parametrize(("durability", "synchronous"), [("power", 2), ("process", 1)])
def test_every_connection_reads_its_pragmas_back(path: Path, durability: Durability, synchronous: int) -> None:
    made(path)
    for writer in (True, False):
        db = connect.connect(path, durability, create=False, writer=writer)
        pragmas = {
            name: db.execute(f"PRAGMA {name}").get
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint", "query_only")
        }
        trusted = db.execute("PRAGMA trusted_schema").get
        db.close()
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": synchronous,
            "foreign_keys": 1,
            "wal_autocheckpoint": 0,
            "query_only": 0 if writer else 1,
        }
        assert trusted == 0


@pytest.mark.parametrize("pragma", ["journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint"])
def test_a_pragma_that_does_not_take_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    made(path)
    opened: list[apsw.Connection] = []

    class Deaf(apsw.Connection):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            opened.append(self)

        def execute(self, statement: str, *args: object, **kwargs: object) -> apsw.Cursor:
            if f"{pragma} =" in statement:
                statement = "PRAGMA journal_mode = MEMORY" if pragma == "journal_mode" else f"PRAGMA {pragma} = 3"
                if pragma == "foreign_keys":
                    statement = "PRAGMA foreign_keys = OFF"
            if pragma == "journal_mode" and statement == "PRAGMA journal_mode = MEMORY":
                return super().execute("SELECT 'memory'")
            return super().execute(statement, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(connect.apsw, "Connection", Deaf)
    with pytest.raises(ConfigError):
        SqliteStore(path).open(create=False)
    for db in opened:
        db.close()


def test_a_reader_cannot_write(path: Path) -> None:
    made(path)
    store = SqliteStore(path, durability="process")
    store.open(create=False)
    reader = store._reader()
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM jobs")
    reader.close()
    store.close()


# the library


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2", "3.52.0", "3.52.9"])
def test_a_sqlite_that_can_corrupt_a_shared_file_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(connect.apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(UnsafeSqlite) as refused:
        SqliteStore(path).open(create=True)
    assert refused.value.fields["version"] == version
    assert not path.exists()


@pytest.mark.parametrize("version", ["3.51.3", "3.51.4", "3.53.0", "3.54.1", "4.0.0"])
def test_a_fixed_sqlite_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(connect.apsw, "sqlite_lib_version", lambda: version)
    connect.check_library()


# the place


def test_a_missing_folder_a_folder_and_a_missing_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        SqliteStore(tmp_path / "none" / "relight.db").open(create=True)
    with pytest.raises(ConfigError, match="is a folder"):
        SqliteStore(tmp_path).open(create=True)
    with pytest.raises(StorageUnavailable, match="no store"):
        SqliteStore(tmp_path / "relight.db").open(create=False)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("kind", sorted(connect.NETWORK_FILESYSTEMS))
def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/x {path.parent} {kind} rw 0 0\ntmpfs /other tmpfs rw 0 0\n"
    read = Path.read_text

    def fake(self: Path, *args: object, **kwargs: object) -> str:
        return mounts if str(self) == "/proc/self/mounts" else read(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", fake)
    with pytest.raises(ConfigError, match="network file system") as refused:
        SqliteStore(path).open(create=True)
    assert refused.value.fields["filesystem"] == kind
    assert not path.exists()


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("a / ext4 rw 0 0\nb /data nfs4 rw 0 0\n", "ext4"),
        ("a / ext4 rw 0 0\nb {folder} nfs4 rw 0 0\n", "nfs4"),
        ("a / nfs4 rw 0 0\n", "nfs4"),
        ("a {folder} nfs4 rw 0 0\nb {folder} ext4 rw 0 0\n", "ext4"),
        ("a / ext4 rw 0 0\nb {folder}x nfs4 rw 0 0\n", "ext4"),
    ],
)
def test_the_innermost_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, kind: str) -> None:
    text = mounts.format(folder=tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
    assert connect._filesystem_of(tmp_path) == kind


def test_a_system_without_a_list_of_mounts_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Path, **_: object) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", none)
    assert connect._filesystem_of(tmp_path) == ""


def _as_nobody(act: Callable[[], None]) -> str:
    """Do something as a user who may do little, in a forked child; return what it raised."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            act()
            said = "nothing"
        except BaseException as error:  # the child must end here, whatever happens
            said = f"{type(error).__name__}: {error}"
        os.write(into, said.encode()[:4000])
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a folder that everybody may enter: pytest's own are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="relight-public-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_refused_in_words(public: Path) -> None:
    public.chmod(0o555)
    said = _as_nobody(lambda: SqliteStore(public / "relight.db").open(create=True))
    assert said.startswith("StorageUnavailable") and "Check that folder and file are writable" in said
    assert files(public) == {}


def test_a_read_only_store_is_refused_in_words(public: Path) -> None:
    path = made(public / "relight.db")
    for file in public.iterdir():
        file.chmod(0o444)
    public.chmod(0o555)
    before = files(public)
    said = _as_nobody(lambda: SqliteStore(path).open(create=False))
    assert said.startswith("StorageUnavailable") and "writable" in said
    assert files(public) == before


# files that are something else


def test_a_file_that_is_no_database_is_left_as_it_is(path: Path) -> None:
    for content in (b"hello" * 1000, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8000):
        path.write_bytes(content)
        for create in (True, False):
            with pytest.raises(StorageCorrupt) as refused:
                SqliteStore(path).open(create=create)
            assert "relight doctor" in str(refused.value)
        assert files(path.parent) == {"relight.db": content}


def test_a_damaged_schema_is_left_as_it_is(path: Path) -> None:
    made(path)
    db = apsw.Connection(os.fspath(path))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(path.read_bytes())
    content[100:400] = os.urandom(300)
    path.write_bytes(content)
    with pytest.raises((StorageCorrupt, ConfigError)):
        SqliteStore(path).open(create=True)
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("cut", [100, 4096, 10_000])
def test_a_cut_file_is_never_healed_by_starting_empty(path: Path, cut: int) -> None:
    made(path)
    by_hand(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    content, lost = whole[:-cut], whole[-cut:]
    for stale in path.parent.glob("*-*"):
        stale.unlink()
    path.write_bytes(content)
    store = SqliteStore(path, durability="process")
    try:
        store.open(create=True)
        with store.reading() as reads:
            assert len(reads.job_ids()) == 1  # what is left is read; what was cut is not there
        assert store.check_integrity() != [] or not any(lost)  # the end of an empty page is nothing to miss
    except (StorageCorrupt, StorageUnavailable):
        pass
    finally:
        store.close()
    assert len(path.read_bytes()) <= len(content) + 4096
    assert path.read_bytes()[:16] == content[:16]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_something_else_is_refused_and_not_touched(path: Path, mode: str, create: bool) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute("CREATE TABLE customers (name TEXT)")
        db.execute("INSERT INTO customers VALUES ('ann')")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="something else"):
        SqliteStore(path).open(create=create)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store_only_where_one_is_asked_for(path: Path) -> None:
    path.touch()
    with pytest.raises(SchemaOutdated):
        SqliteStore(path).open(create=False)
    store = SqliteStore(path)
    store.open(create=True)
    store.close()


# the schema


def test_a_newer_schema_is_refused(path: Path) -> None:
    made(path)
    number = len(load_migrations("relight.store.sqlite")) + 1
    by_hand(path, "INSERT INTO migrations SELECT max(number) + 1, 'from_the_future', 'x', 0 FROM migrations")
    for create in (True, False):
        with pytest.raises(SchemaTooNew) as refused:
            SqliteStore(path).open(create=create)
        assert refused.value.fields["schema"] == number
    with pytest.raises(SchemaTooNew):
        SqliteStore(path).upgrade()


def test_a_changed_migration_is_refused(path: Path) -> None:
    made(path)
    by_hand(path, "UPDATE migrations SET checksum = 'x' WHERE number = 1")
    for create in (True, False):
        with pytest.raises(ConfigError, match="changed by hand"):
            SqliteStore(path).open(create=create)


def test_a_store_that_lacks_migrations_is_refused_until_it_is_upgraded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(path)
    from relight.store.migrate import Migration
    from relight.store.sqlite import store as module

    real = load_migrations("relight.store.sqlite")
    more = [*real, Migration(len(real) + 1, "more", "CREATE TABLE more (x INTEGER)", "sum")]
    monkeypatch.setattr(module, "load_migrations", lambda package: more)
    for create in (True, False):
        with pytest.raises(SchemaOutdated, match="db upgrade"):
            SqliteStore(path).open(create=create)
    assert [migration.name for migration in SqliteStore(path).upgrade()] == ["more"]
    assert SqliteStore(path).upgrade() == []
    store = SqliteStore(path)
    store.open(create=False)
    assert store.health()["schema"] == len(more)
    store.close()


def test_a_migration_that_fails_leaves_nothing_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    from relight.store.migrate import Migration
    from relight.store.sqlite import store as module

    real = load_migrations("relight.store.sqlite")
    broken = Migration(len(real) + 1, "broken", "CREATE TABLE half (x); CREATE TABLE jobs (x)", "sum")
    monkeypatch.setattr(module, "load_migrations", lambda package: [*real, broken])
    with pytest.raises(StorageCorrupt):
        SqliteStore(path).upgrade()
    monkeypatch.undo()
    store = SqliteStore(path)
    store.open(create=False)
    db = store._reader()
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").get == 0
    db.close()
    store.close()


def test_a_schema_that_changes_under_an_open_writer_fences_it(path: Path) -> None:
    with World(lambda: SqliteStore(path, durability="process")) as world:
        client = world.client()
        client.submit()
        by_hand(path, "UPDATE meta SET value = value + 1 WHERE key = 'schema'")
        [error] = client.outcomes(client.submission())
        assert type(error).__name__ == "Fenced"


MAKE = """
import sys
from relight.store.sqlite import SqliteStore
sys.stdin.readline()
store = SqliteStore(sys.argv[1], durability="process")
store.open(create=True)
with store.reading() as reads:
    reads.last_seq()
store.close()
"""


def test_many_processes_may_make_the_same_store_at_once(path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    said = [maker.communicate()[1] for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 6, said
    db = apsw.Connection(os.fspath(path))
    assert list(db.execute("SELECT number FROM migrations")) == [
        (m.number,) for m in load_migrations("relight.store.sqlite")
    ]
    db.close()


# addresses


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("relight.db", "relight.db"),
        ("/tmp/a b.db", "/tmp/a b.db"),
        ("sqlite:///jobs.db", "jobs.db"),
        ("sqlite:////var/jobs.db", "/var/jobs.db"),
    ],
)
def test_an_address_names_a_file(address: str, path: str) -> None:
    assert store_at(address).place == path


@pytest.mark.parametrize("address", ["", ":memory:", "sqlite://", "mysql://h", "a\0b"])
def test_an_address_that_names_no_file_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        store_at(address)
