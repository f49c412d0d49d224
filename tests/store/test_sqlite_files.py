"""SQLite's own files: the WAL is checkpointed explicitly, the log is append-only, a fork gets nothing of its parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from relight.conformance.world import World, Writer
from relight.core.commands.engines import WakeDueJobs
from relight.errors import StorageCorrupt
from relight.store.sqlite import SqliteStore, connect
from relight.store.sqlite import store as module
from relight.store.store import OutcomeUnknown


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(lambda: SqliteStore(tmp_path / "relight.db", durability="process")) as world:
        yield world


def store_of(writer: Writer) -> SqliteStore:
    assert isinstance(writer.store, SqliteStore)
    return writer.store


def frames(store: SqliteStore) -> tuple[int, int]:
    """Return how many frames the WAL holds, and how many of them are in the file."""
    assert store._writer is not None
    return store._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)


# the WAL


def test_the_wal_is_checkpointed_once_it_is_long_and_not_before(world: World) -> None:
    client = world.client()
    store = store_of(client)
    big = "x" * 200_000
    longest = 0
    for _ in range(120):
        client.submit(inputs=big)
        held, copied = frames(store)
        longest = max(longest, held - copied)
    per_commit = 200_000 // 4096 + 40
    assert connect.CHECKPOINT_PAGES < 120 * 200_000 // 4096, "enough was written"
    assert longest <= connect.CHECKPOINT_PAGES + per_commit
    assert longest > connect.CHECKPOINT_PAGES // 2


def test_a_reader_holds_the_wal_and_nothing_fails(world: World) -> None:
    client = world.client()
    store = store_of(client)
    with world.store.reading(snapshot=True) as reads:
        before = reads.last_seq()
        for _ in range(60):
            client.submit(inputs="x" * 200_000)
        assert reads.last_seq() == before
        held, copied = frames(store)
        assert held - copied > connect.CHECKPOINT_PAGES
    client.submit()
    held, copied = frames(store)
    assert held - copied <= connect.CHECKPOINT_PAGES


def test_a_checkpoint_that_is_refused_because_another_process_is_at_it_is_no_trouble(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def wal_checkpoint(self, *, mode: int) -> tuple[int, int]:
            raise apsw.BusyError("database is locked")

    connect.checkpoint_when_long(Busy())  # type: ignore[arg-type]


def test_a_checkpoint_that_fails_otherwise_is_told(world: World) -> None:
    client = world.client()
    client.submit()
    store = store_of(client)

    class Failing:
        def __init__(self, inner: apsw.Connection) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def wal_checkpoint(self, *, mode: int) -> tuple[int, int]:
            raise apsw.IOError("disk I/O error")

    real = store._writer
    assert real is not None
    store._writer = Failing(real)  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown):
        store.tidy()
    command = client.submission()
    ticket = client.journal.put(command)
    client.pump()
    assert ticket.done and ticket.error is None
    assert client.journal.trouble is not None
    world.clock.advance(1000)
    client.pump()
    assert client.journal.trouble is None
    assert world.job(command.job_id)


def test_closing_the_last_connection_does_not_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "relight.db"
    with World(lambda: SqliteStore(path, durability="process")) as world:
        job = world.client().submit()
    assert (tmp_path / "relight.db-wal").stat().st_size > 0
    with World(lambda: SqliteStore(path, durability="process")) as world:
        assert world.job(job)


# append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET ts = 1",
        "UPDATE events SET payload = '{}' WHERE seq = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)",
    ],
)
def test_an_event_is_never_changed_and_never_deleted(world: World, statement: str) -> None:
    client = world.client()
    job = client.submit()
    before = world.snapshot(job).events
    db = connect.connect(store_of(client).path, "process", create=False, writer=True)
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        db.execute(statement)
    db.close()
    assert world.snapshot(job).events == before


# forks


def in_a_fork(act: object) -> str:
    """Call something in a forked child; return what it raised."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()  # type: ignore[operator]
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


def test_a_forked_child_is_refused_and_its_parent_goes_on(world: World) -> None:
    client = world.client()
    job = client.submit()
    batch = client.batch_of(client.submission())
    store = store_of(client)

    def read() -> None:
        with store.reading() as reads:
            reads.last_seq()

    for act in (read, lambda: store.apply(batch), store.tidy):
        said = in_a_fork(act)
        assert said.startswith("StorageUnavailable") and "before a fork" in said
    client.signal(job, "go")
    assert len(world.snapshot(job).signals) == 1
    assert store.check_integrity() == []


def test_a_forked_child_may_open_the_store_anew(world: World) -> None:
    client = world.client()
    job = client.submit()
    path = store_of(client).path

    def anew() -> None:
        store = SqliteStore(path, durability="process")
        store.open(create=False)
        with store.reading() as reads:
            assert reads.job(job.job_id) is not None
        store.close()

    assert in_a_fork(anew) == "nothing"
    client.signal(job, "go")


# reading


def test_connections_for_reading_are_lent_again(world: World) -> None:
    store = world.store
    assert isinstance(store, SqliteStore)
    world.client().submit()
    with store.reading(), store.reading(), store.reading():
        pass
    lent = {id(db) for db in store._idle}
    with store.reading() as reads:
        reads.last_seq()
    assert {id(db) for db in store._idle} == lent
    for _ in range(3):
        with store.reading(snapshot=True) as reads:
            reads.last_seq()
    assert not any(db.in_transaction for db in store._idle)


def test_a_reader_that_fails_gives_its_connection_back(world: World) -> None:
    world.client().submit()
    with pytest.raises(ZeroDivisionError), world.store.reading(snapshot=True):
        1 / 0  # noqa: B018
    with world.store.reading(snapshot=True) as reads:
        assert reads.last_seq() > 0


def test_a_query_that_gives_no_text_is_told_as_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUERIES", {**module._QUERIES, "last_seq": "SELECT 1"})
    with world.store.reading() as reads, pytest.raises(StorageCorrupt):
        reads.last_seq()


# durable boundaries


def test_the_probe_is_called_at_each_durable_boundary(tmp_path: Path) -> None:
    reached: list[str] = []
    with World(lambda: SqliteStore(tmp_path / "relight.db", durability="process", probe=reached.append)) as world:
        client = world.client()
        client.submit()
        client.do(WakeDueJobs())
    assert reached == ["before_commit", "after_commit"] * 2


def test_a_sound_store_has_nothing_to_tell(world: World) -> None:
    engine = world.open_engine()
    engine.finish(engine.run_new())
    assert store_of(engine).check_integrity() == []
