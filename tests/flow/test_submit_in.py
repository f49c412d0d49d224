"""``submit_in``: the job is there exactly if the caller's own transaction commits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from tests.flow.kit import Rig

from relight import AsyncClient, Client, step, workflow
from relight.errors import ConfigError, IdempotencyMismatch, InvalidArgument, NotFound, NotSerializable
from relight.recorder.verify import verify_store
from relight.store.open import store_at


@step
def double(x: int) -> int:
    return 2 * x


@workflow
def order(x: int, note: str = "") -> int:
    return double(x)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("RELIGHT_TEST_STORE", "postgresql")
    rig = Rig(tmp_path)
    rig.start(order)
    yield rig
    rig.close()
    rig.verify()


def address(rig: Rig) -> str:
    return rig.path.partition("?")[0]


def alchemy(rig: Rig) -> str:
    return address(rig).replace("postgresql://", "postgresql+psycopg://")


def jobs(rig: Rig) -> int:
    return len(rig.client().jobs(limit=0))


def test_it_is_there_once_the_transaction_commits(rig: Rig) -> None:
    client = rig.client()
    with psycopg.connect(address(rig)) as db:
        db.execute("CREATE TEMP TABLE mine (n int)")
        db.execute("INSERT INTO mine VALUES (1)")
        handle = client.submit_in(db, order, 21)
        assert handle.created and jobs(rig) == 0
        with pytest.raises(NotFound):
            client.job(handle.id).info()
    assert handle.result(timeout_seconds=20) == 42
    assert rig.told(handle).count("job_accepted") == 1


def test_a_rollback_takes_it_away(rig: Rig) -> None:
    with psycopg.connect(address(rig)) as db:
        handle = rig.client().submit_in(db, order, 21)
        db.rollback()
    assert jobs(rig) == 0
    with pytest.raises(NotFound):
        handle.info()


def test_what_is_refused_leaves_the_transaction_as_it_was(rig: Rig) -> None:
    client = rig.client()
    client.submit(order, 1, idempotency_key="k").result(timeout_seconds=20)
    with psycopg.connect(address(rig)) as db:
        db.execute("CREATE TEMP TABLE mine (n int)")
        with pytest.raises(NotSerializable):
            client.submit_in(db, order, object())
        with pytest.raises(IdempotencyMismatch, match='another "x"'):
            client.submit_in(db, order, 2, idempotency_key="k")
        assert db.info.transaction_status == TransactionStatus.INTRANS
        db.execute("INSERT INTO mine VALUES (1)")
        assert client.submit_in(db, order, 3).created
    assert jobs(rig) == 2


def test_one_key_is_one_job_within_and_across_transactions(rig: Rig) -> None:
    client = rig.client()
    with psycopg.connect(address(rig)) as db:
        first = client.submit_in(db, order, 1, idempotency_key="k")
        again = client.submit_in(db, order, 1, idempotency_key="k")
        assert first.created and not again.created and first.id == again.id
        with pytest.raises(IdempotencyMismatch):
            client.submit_in(db, order, 2, idempotency_key="k")
    later = client.submit(order, 1, idempotency_key="k")
    assert later.id == first.id and not later.created
    first.result(timeout_seconds=20)
    assert rig.told(first).count("job_deduplicated") == 2


@pytest.mark.parametrize("commits", [True, False])
def test_two_transactions_that_race_for_a_key(rig: Rig, commits: bool) -> None:
    client = rig.client()
    found: list[Any] = []
    with psycopg.connect(address(rig)) as one, psycopg.connect(address(rig)) as other:
        first = client.submit_in(one, order, 1, idempotency_key="k")

        def second() -> None:
            found.append(client.submit_in(other, order, 1, idempotency_key="k"))
            other.commit()

        racer = threading.Thread(target=second)
        racer.start()
        with psycopg.connect(address(rig), autocommit=True) as looking:
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
            while looking.execute(blocked, (one.info.backend_pid,)).fetchone() == (0,):
                assert racer.is_alive()
        (one.commit if commits else one.rollback)()
        racer.join(20)
    (second_job,) = found
    assert second_job.created is not commits and (second_job.id == first.id) is commits
    assert jobs(rig) == 1 and second_job.result(timeout_seconds=20) == 2


def test_connections_that_are_of_no_use_are_refused_at_once(rig: Rig) -> None:
    client = rig.client()
    with psycopg.connect(address(rig), autocommit=True) as db:
        with pytest.raises(InvalidArgument, match="no transaction is open"):
            client.submit_in(db, order, 1)
        with db.transaction():
            client.submit_in(db, order, 1)
        db.execute("BEGIN")
        with pytest.raises(psycopg.Error):
            db.execute("SELECT 1/0")
        with pytest.raises(InvalidArgument, match="has failed already"):
            client.submit_in(db, order, 1)
    with pytest.raises(InvalidArgument, match="is closed"):
        client.submit_in(db, order, 1)
    with pytest.raises(InvalidArgument, match="builtins.str is no connection"):
        client.submit_in("postgresql://x", order, 1)
    assert jobs(rig) == 1


def test_sqlite_says_what_to_do_instead(tmp_path: Path) -> None:
    store = store_at(str(tmp_path / "jobs.db"))
    store.open(create=True)
    store.close()
    with Client(str(tmp_path / "jobs.db"), workflows=[order]) as client, pytest.raises(ConfigError, match="PostgreSQL"):
        client.submit_in(object(), order, 1)


def test_sqlalchemy_connections_and_sessions(rig: Rig) -> None:
    client = rig.client()
    engine = create_engine(alchemy(rig), poolclass=NullPool)
    with engine.connect() as connection:
        kept = client.submit_in(connection, order, 1)
        connection.commit()
        client.submit_in(connection, order, 2)
        connection.rollback()
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        also = client.submit_in(session, order, 3)
        session.commit()
        client.submit_in(session, order, 4)
    assert (kept.result(timeout_seconds=20), also.result(timeout_seconds=20)) == (2, 6)
    assert jobs(rig) == 2


def test_async_connections_of_both(rig: Rig) -> None:
    async def scene() -> None:
        async with AsyncClient(rig.path, workflows=[order]) as client:
            async with await psycopg.AsyncConnection.connect(address(rig)) as db:
                one = await client.submit_in(db, order, 1, idempotency_key="k")
                with pytest.raises(IdempotencyMismatch):
                    await client.submit_in(db, order, 2, idempotency_key="k")
                await db.commit()
                await client.submit_in(db, order, 5)
                await db.rollback()
            engine = create_async_engine(alchemy(rig), poolclass=NullPool)
            async with engine.connect() as connection:
                two = await client.submit_in(connection, order, 2)
                await connection.commit()
            async with AsyncSession(engine) as session:
                three = await client.submit_in(session, order, 3)
                await session.commit()
                with pytest.raises(InvalidArgument):
                    await client.submit_in(object(), order, 3)
            assert [await job.result(timeout_seconds=20) for job in (one, two, three)] == [2, 4, 6]

    asyncio.run(scene())
    assert jobs(rig) == 3


def test_many_at_once_hold_nobody_up(rig: Rig) -> None:
    client = rig.client()
    with psycopg.connect(address(rig)) as one, psycopg.connect(address(rig)) as other:
        first = client.submit_in(one, order, 1)
        second = client.submit_in(other, order, 2)
        third = client.submit(order, 3)
        assert third.result(timeout_seconds=20) == 6
        other.commit()
        assert second.result(timeout_seconds=20) == 4
        one.commit()
        assert first.result(timeout_seconds=20) == 2
    report = verify_store(rig.path)
    assert report.ok, report.findings
