"""What is PostgreSQL's own: opening, the log's order, cut commits, locks."""

from __future__ import annotations

import builtins
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.flow.kit import eventually
from tests.postgres import Server

from relight.conformance.world import World
from relight.errors import ConfigError, SchemaOutdated, SchemaTooNew, StorageUnavailable
from relight.store.open import store_at
from relight.store.postgres import PostgresStore
from relight.store.postgres.connect import place_of, split_address
from relight.store.reads import EventFilter
from relight.store.store import Batch, OutcomeUnknown


@pytest.fixture
def address(postgres: Server, database: str) -> str:
    return postgres.emptied(database)


@pytest.fixture
def admin(postgres: Server, database: str) -> Any:
    with psycopg.connect(postgres.address(database), autocommit=True) as db:
        yield db


# opening


def test_an_address_names_its_schema_and_hides_its_password() -> None:
    info, schema, notifies = split_address("postgresql://ann:secret@db.example:5433/app?schema=jobs&sslmode=require")
    assert notifies and not split_address("postgresql://localhost/app?notify=off")[2]
    assert schema == "jobs" and "schema" not in info and "sslmode=require" in info
    assert place_of(info, schema) == "postgresql://ann@db.example:5433/app?schema=jobs"


@pytest.mark.parametrize("schema", ["", "pg_catalog", "x" * 64])
def test_a_schema_that_cannot_be_is_refused(schema: str) -> None:
    with pytest.raises(ConfigError):
        split_address(f"postgresql://localhost/app?schema={schema}")


def test_without_psycopg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "psycopg":
            raise ImportError("No module named 'psycopg'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'relight\[postgres\]'"):
        store_at("postgresql://localhost/app")


def test_a_server_that_is_not_there_is_unavailable(postgres: Server) -> None:
    with pytest.raises(StorageUnavailable):
        store_at("postgresql://relight@127.0.0.1:1/none").open(create=True)
    with pytest.raises(StorageUnavailable, match="nobody_made_this"):
        store_at(postgres.address("nobody_made_this")).open(create=True)


def test_a_schema_with_an_odd_name_holds_a_store_of_its_own(postgres: Server, database: str) -> None:
    address = f'postgresql://relight@127.0.0.1:{postgres.port}/{database}?schema=a"; DROP TABLE x; --'
    with World(lambda: PostgresStore(address, durability="process")) as world:
        engine = world.open_engine()
        engine.finish(engine.run_new())
        assert world.store.place.endswith('?schema=a"; DROP TABLE x; --')


def test_an_engine_creates_only_an_empty_store(postgres: Server, database: str, admin: Any) -> None:
    store = store_at(postgres.address(database, "nothing_here"))
    with pytest.raises(StorageUnavailable, match="there is no store"):
        store.open(create=False)
    admin.execute("CREATE SCHEMA somebody_else; CREATE TABLE somebody_else.theirs (x int)")
    with pytest.raises(ConfigError, match="something else"):
        store_at(postgres.address(database, "somebody_else")).open(create=True)


def test_a_newer_schema_and_an_older_one_are_refused(postgres: Server, database: str, admin: Any) -> None:
    address = postgres.address(database, "by_version")
    store = PostgresStore(address, durability="process")
    store.open(create=True)
    store.close()
    admin.execute("INSERT INTO by_version.migrations VALUES (99, 'later', 'x', 0)")
    with pytest.raises(SchemaTooNew):
        store.open(create=True)
    admin.execute("DELETE FROM by_version.migrations WHERE number IN (99, 3)")
    with pytest.raises(SchemaOutdated):
        store.open(create=True)


def test_many_that_create_at_once_make_one_store(postgres: Server, database: str) -> None:
    stores = [PostgresStore(postgres.address(database, "at_once"), durability="process") for _ in range(6)]
    failed: list[BaseException] = []

    def create(store: PostgresStore) -> None:
        try:
            store.open(create=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=create, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert failed == []


def test_durability_is_read_back(address: str) -> None:
    for durability, commits in (("power", "on"), ("process", "off")):
        store = PostgresStore(address, durability=durability)  # type: ignore[arg-type]
        store.open(create=True)
        assert store.health()["synchronous_commit"] == commits
        assert store.health()["durability"] == durability
        store.close()


# the log


def test_events_refuse_to_be_changed_even_by_hand(address: str, admin: Any) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        world.open_engine()
        for change in ("UPDATE relight.events SET type = 'x'", "DELETE FROM relight.events", "TRUNCATE relight.events"):
            with pytest.raises(psycopg.Error) as refused:
                admin.execute(change)
            assert refused.value.sqlstate == "RL003"


def write_event(db: psycopg.Connection[Any], writer: str, seq: int) -> int:
    """Write an event as a batch does: first the writer's row, then the number. Leaves the transaction open."""
    db.execute("UPDATE relight.engines SET batch_seq = batch_seq WHERE engine_id = %s", (writer,))
    row = db.execute(
        "INSERT INTO relight.events (event_id, type, ts, actor, actor_id, trace_id, payload, writer_id, writer_seq, "
        "prev_hash, hash, floor) VALUES ('e', 'job_accepted', 0, 'system', 'x', 't', '{}', %s, %s, '', '', "
        "(SELECT floor FROM relight.engines WHERE engine_id = %s)) RETURNING seq",
        (writer, seq, writer),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_reader_never_skips_a_lower_number_that_is_committed_later(
    address: str, postgres: Server, database: str
) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        slow, quick = world.open_engine("slow"), world.open_engine("quick")
        with world.store.reading() as reads:
            start = reads.last_seq()
        with psycopg.connect(postgres.address(database)) as behind:
            first = write_event(behind, slow.id, 1000)
            quick.submit()
            with world.store.reading() as reads:
                assert reads.last_seq() == start
                assert reads.events(EventFilter(after=start)) == []
            behind.commit()
        with world.store.reading() as reads:
            seen = [event.seq for event in reads.events(EventFilter(after=start))]
        assert seen[0] == first and seen == list(range(first, seen[-1] + 1)) and len(seen) > 1


def test_a_number_that_was_lost_holds_nobody_up_once_somebody_writes_again(
    address: str, postgres: Server, database: str
) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        slow, quick = world.open_engine("slow"), world.open_engine("quick")
        with world.store.reading() as reads:
            start = reads.last_seq()
        with psycopg.connect(postgres.address(database)) as behind:
            lost = write_event(behind, slow.id, 1000)
            quick.submit()
            behind.rollback()
        quick.submit()
        with world.store.reading() as reads:
            seen = [event.seq for event in reads.events(EventFilter(after=start))]
            assert lost not in seen and len(seen) >= 2
            assert reads.last_seq() == seen[-1]


# connections


def test_a_connection_that_is_cut_leaves_an_unknown_outcome_that_the_batch_number_settles(
    address: str, admin: Any
) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        engine = world.open_engine(store=world.store)
        assert isinstance(world.store, PostgresStore)
        writer = world.store._connection()
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (writer.info.backend_pid,))
        command = engine.submission()
        ticket = engine.journal.put(command)
        engine.journal.pump()
        assert not ticket.done and isinstance(engine.journal.trouble, OutcomeUnknown)
        world.clock.advance(60_000)
        while engine.journal.pump():
            pass
        assert ticket.done and ticket.error is None and engine.journal.trouble is None
        assert world.event_types(command.job_id) == ["job_accepted"]


def waits_for_a_lock(admin: Any, server_pid: int) -> bool:
    row = admin.execute(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", (server_pid,)
    ).fetchone()
    return bool(row[0])


def test_a_deadlock_is_sent_again(address: str, postgres: Server, database: str, admin: Any) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        one, two = world.open_engine("one"), world.open_engine("two")
        jobs = sorted((one.submit(), one.submit()), key=lambda job: job.job_id)
        with psycopg.connect(postgres.address(database)) as other:
            other.execute("SET deadlock_timeout = '10s'")  # so that ours is the one that is told
            other.execute("SELECT 1 FROM relight.jobs WHERE job_id = %s FOR UPDATE", (jobs[1].job_id,))
            store = two.journal._store
            assert isinstance(store, PostgresStore)
            writer = store._connection()
            writer.execute("SET deadlock_timeout = '100ms'")
            done = threading.Thread(target=lambda: two.do(*(two.signal_command(job, "go") for job in jobs)))
            done.start()
            eventually(
                lambda: waits_for_a_lock(admin, writer.info.backend_pid), "it holds one job and waits for the other"
            )
            other.execute("SELECT 1 FROM relight.jobs WHERE job_id = %s FOR UPDATE", (jobs[0].job_id,))
            other.rollback()
            done.join(20)
            assert not done.is_alive()
        assert [len(world.snapshot(job).signals) for job in jobs] == [1, 1]


def test_a_claim_does_not_wait_for_a_job_that_somebody_holds_and_the_lost_are_named(
    address: str, postgres: Server, database: str
) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        one, two = world.open_engine("one"), world.open_engine("two")
        jobs = [one.submit() for _ in range(40)]
        taken, held = jobs[::4], jobs[1::4]
        one.do(*(one.claiming(job) for job in taken))
        store = two.journal._store
        sent: list[Batch] = []
        apply = store.apply
        store.apply = lambda batch: (sent.append(batch), apply(batch))[1]  # type: ignore[method-assign,func-returns-value]
        with psycopg.connect(postgres.address(database)) as other:
            locked = [job.job_id for job in held]
            other.execute("SELECT 1 FROM relight.jobs WHERE job_id = ANY (%s) FOR NO KEY UPDATE", (locked,))
            outcomes = two.outcomes(*(two.claiming(job) for job in jobs))
        assert [error is not None for error in outcomes] == [job in taken or job in held for job in jobs]
        assert len(sent) == 2, "not by halves"
        assert all(world.job(job).state == "queued" for job in held)
        assert two.outcomes(*(two.claiming(job) for job in held)) == [None] * len(held)


def test_a_watcher_sees_each_commit_and_survives_its_connection(address: str, admin: Any) -> None:
    with World(lambda: PostgresStore(address, durability="process")) as world:
        engine = world.open_engine()
        token = world.store.watch()
        before = token()
        engine.submit()
        assert token() != before
        assert isinstance(world.store, PostgresStore)
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (world.store._watchers[0].info.backend_pid,))
        with pytest.raises(StorageUnavailable):
            token()
        assert isinstance(token(), int)


def test_a_role_with_the_documented_privileges_does_everything_but_change_the_log(postgres: Server, admin: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "postgresql-store.md").read_text(encoding="utf-8")
    grants = page.partition("```sql\n")[2].partition("```")[0]
    database = postgres.new_database()
    owned = PostgresStore(postgres.address(database), durability="process")
    owned.open(create=True)
    owned.close()
    with psycopg.connect(postgres.address(database), autocommit=True) as owner:
        owner.execute(grants.encode())
    address = postgres.address(database).replace("relight@", "relight_app@")
    with World(lambda: PostgresStore(address, durability="process")) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run)
        engine.finish_step(run)
        engine.finish(run)
        engine.define_queue("gpu", slots=3)
        world.store.put_blob("b", "[]", 0)
        with psycopg.connect(address, autocommit=True) as app:
            for change in (
                "UPDATE relight.events SET type = 'x'",
                "DELETE FROM relight.jobs",
                "DROP TABLE relight.jobs",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    app.execute(change.encode())


def test_a_process_of_the_server_that_has_an_old_one_s_number_is_spared(
    address: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, or on a promoted standby, the number of the connection that broke may be anybody's."""
    store = PostgresStore(address, durability="process")
    store.open(create=True)
    _, since = store._served_by
    monkeypatch.setattr(store, "_served_by", (admin.info.backend_pid, since))
    store.reopen()
    assert admin.execute("SELECT 1").fetchone() == (1,)
    mine = store._served_by[0]
    store.reopen()
    assert admin.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (mine,)).fetchone() == (0,)
    store.close()
