"""Moving house: a store copied into a new one of either sort goes on there as if nothing had happened."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner
from tests.flow.kit import Rig, eventually, wait_for
from tests.postgres import new_schema

from relight import Client, Engine, ask, external, sleep, step, wait_signal, workflow
from relight.cli.main import cli
from relight.client.core import Core
from relight.errors import Conflict
from relight.model import JobState
from relight.recorder.verify import verify_store
from relight.store.moving import TABLES, Movable, copy_all
from relight.store.open import store_at
from relight.store.reads import EventFilter

WAYS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite"), ("postgresql", "postgresql")]
held = threading.Event()
begun = threading.Event()


@step
def double(x: int) -> int:
    if x < 0:
        raise ValueError("negative")
    return 2 * x


@step
def hold(x: int) -> int:
    begun.set()
    wait_for(held)
    return x


@workflow
def plain(x: int) -> int:
    return double(double(x))


@workflow
def signalled(x: int) -> int:
    return double(x) + wait_signal("more", type=int)


@workflow
def asked() -> str:
    return ask("Go?").choice


@workflow
def sleeper() -> str:
    sleep(3600)
    return "slept"


@workflow
def outside() -> int:
    token = external("label", type=int)
    return token.wait()


@workflow(on_stall="hold")
def stuck(x: int) -> int:
    return hold(x)


ALL = [plain, signalled, asked, sleeper, outside, stuck]


def address(sort: str, tmp_path: Path, name: str) -> str:
    return str(tmp_path / f"{name}.db") if sort == "sqlite" else new_schema()


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A store with jobs in every state that can be at rest, its engine stopped."""
    monkeypatch.setenv("RELIGHT_TEST_STORE", request.param)
    held.clear()
    begun.clear()
    rig = Rig(tmp_path)
    engine = rig.start(*ALL)
    jobs = [engine.submit(plain, x, idempotency_key=f"p{x}") for x in range(-2, 5)]
    jobs += [engine.submit(signalled, 1), engine.submit(asked), engine.submit(sleeper), engine.submit(outside)]
    jobs += [engine.submit(plain, 7, delay_seconds=7200, tags={"who": "later"}), engine.submit(signalled, 5)]
    jobs[-1].cancel("not wanted")
    for job in jobs[:7]:
        eventually(lambda job=job: job.info().completed_at is not None)
    for job in jobs[7:11]:
        rig.until_put_away(job)
    engine.submit(stuck, 3)
    wait_for(begun)
    engine = rig.restart(engine, *ALL)
    eventually(lambda: list(engine.jobs(state=JobState.STALLED)))
    engine.stop(drain_seconds=5)
    yield rig
    held.set()
    rig.close()


def everything(address: str) -> dict[str, object]:
    """What a store says of itself, but for the numbers of commits."""
    store = store_at(address)
    store.open(create=False)
    try:
        with store.reading(snapshot=True) as reads:
            return {
                "events": [(e.event_id, e.hash, e.payload) for e in reads.events(EventFilter(limit=0))],
                "engines": [(e.engine_id, e.state, e.head_hash) for e in reads.engines(limit=0)],
                "states": reads.count_in_states(),
            }
    finally:
        store.close()


def moved(source: str, target: str) -> None:
    done = CliRunner().invoke(cli, ["db", "copy", "--from", source, "--to", target, "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.output)["verified"].values()) == {True}


@pytest.mark.parametrize(("source", "sort"), WAYS, indirect=["source"])
def test_a_copied_store_goes_on(source: Rig, sort: str, tmp_path: Path) -> None:
    before = everything(source.path)
    target = address(sort, tmp_path, "new")
    moved(source.path, target)
    assert everything(target) == before == everything(source.path)
    held.set()
    with Engine(target, workflows=ALL) as engine, Client(target, workflows=ALL) as client:
        assert client.job(kind="plain", idempotency_key="p2").result(timeout_seconds=20) == 8
        assert not client.submit(plain, 2, idempotency_key="p2").created
        states = Counter(str(info.state) for info in client.jobs(limit=0))
        assert states["failed"] == 2 and states["cancelled"] == 1 and states["stalled"] == 1
        (waiting,) = [i.id for i in client.jobs(kind="signalled", limit=0) if i.state == JobState.QUEUED]
        client.job(waiting).signal("more", 5)
        assert client.job(waiting).result(timeout_seconds=20) == 7
        (question,) = [i.id for i in client.jobs(kind="asked", limit=0)]
        client.job(question).answer("approve", by="me")
        assert client.job(question).result(timeout_seconds=20) == "approve"
        (given,) = [i.id for i in client.jobs(kind="outside", limit=0)]
        with client.core.store.reading() as reads:
            token = reads.tokens(given)[0].token
        client.complete(token, 11)
        assert client.job(given).result(timeout_seconds=20) == 11
        (held_job,) = [i.id for i in client.jobs(kind="stuck", limit=0)]
        client.job(held_job).resume()
        assert client.job(held_job).result(timeout_seconds=20) == 3
        assert engine.submit(plain, 100).result(timeout_seconds=20) == 400
    report = verify_store(target)
    assert report.ok, report.findings


@pytest.mark.parametrize(("source", "sort"), WAYS[:2], indirect=["source"])
def test_a_log_that_is_followed_is_whole_at_once(source: Rig, sort: str, tmp_path: Path) -> None:
    target = address(sort, tmp_path, "new")
    moved(source.path, target)
    with Client(target, workflows=ALL) as client:
        core: Core = client.core
        with core.store.reading() as reads:
            last = reads.last_seq()
            told = reads.events(EventFilter(limit=0))
            assert told[-1].seq == last
            assert [e.seq for e in reads.events(EventFilter(after=told[3].seq, limit=5))] == [e.seq for e in told[4:9]]
        client.submit(plain, 1)
        with core.store.reading() as reads:
            later = reads.events(EventFilter(after=last, limit=0))
            assert [e.type for e in later] == ["writer_opened", "job_accepted"]
            assert [e.seq for e in later] == [last + 1, last + 2]


@pytest.mark.parametrize("sort", ["sqlite", "postgresql"])
def test_every_table_and_column_is_carried(tmp_path: Path, sort: str) -> None:
    there: dict[str, list[str]] = {}
    for name, other in (("one", sort), ("two", "postgresql" if sort == "sqlite" else "sqlite")):
        store = store_at(address(other, tmp_path, name))
        assert isinstance(store, Movable)
        store.open(create=True)
        with store.dump() as dump, store.fill() as fill:
            for table in TABLES:
                assert fill.columns(table) == dump.columns(table)
                assert there.setdefault(table, dump.columns(table)) == dump.columns(table)
        store.close()
    if sort == "sqlite":
        with apsw.Connection(str(tmp_path / "one.db")) as db:
            names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        assert names == {*TABLES, "meta", "migrations"}


@pytest.mark.parametrize("source", ["sqlite", "postgresql"], indirect=True)
def test_what_is_not_at_rest_is_refused(source: Rig, tmp_path: Path) -> None:
    target = str(tmp_path / "new.db")
    engine = source.start(*ALL)
    refused = CliRunner().invoke(cli, ["db", "copy", "--from", source.path, "--to", target])
    assert refused.exit_code != 0 and "is live on" in refused.output and not Path(target).exists()
    source.crash(engine)
    refused = CliRunner().invoke(cli, ["db", "copy", "--from", source.path, "--to", target])
    assert refused.exit_code != 0 and "is not accounted for" in refused.output and not Path(target).exists()


@pytest.mark.parametrize(("source", "sort"), WAYS[:2], indirect=["source"])
def test_a_target_in_use_and_a_source_that_changes_are_refused(source: Rig, sort: str, tmp_path: Path) -> None:
    target = address(sort, tmp_path, "new")
    old, new = store_at(source.path), store_at(target)
    assert isinstance(old, Movable) and isinstance(new, Movable)
    old.open(create=False)
    new.open(create=True)
    try:
        with source.client() as client, pytest.raises(Conflict, match="was written to while it was copied"):
            copy_all(old, new, progress=lambda table, rows: client.submit(plain, 1) and None)
        with new.reading() as reads:
            assert reads.last_seq() == 0
        copy_all(old, new)
        with pytest.raises(Conflict, match="is not empty"):
            copy_all(old, new)
    finally:
        old.close()
        new.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_jobs_there_and_back(tmp_path: Path) -> None:
    first, between, last = str(tmp_path / "first.db"), new_schema(), str(tmp_path / "last.db")
    with Engine(first, workflows=ALL, slots=100, consume=["default"], suspend_after_seconds=0) as engine:
        engine.submit_many(plain.bind(x) for x in range(-500, 3_500))
        engine.submit_many(signalled.bind(x) for x in range(3_000))
        engine.submit_many(plain.bind(x).options(delay_seconds=7200) for x in range(2_000))
        engine.submit_many(plain.bind(x).options(queue="later") for x in range(1_000))

        def at_rest() -> bool:
            with engine.core.store.reading() as reads:
                states = reads.count_in_states()
            ended = states.get(JobState.COMPLETED, 0) + states.get(JobState.FAILED, 0)
            return ended == 4_000 and JobState.RUNNING not in states

        eventually(at_rest, seconds=200)
    moved(first, between)
    moved(between, last)
    assert everything(last) == everything(first) == everything(between)
    with Engine(last, workflows=ALL, slots=100) as engine:
        waiting = [info.id for info in engine.jobs(kind="signalled", limit=0)]
        for job_id in waiting[:50]:
            engine.job(job_id).signal("more", 1)
        assert all(isinstance(engine.job(job_id).result(timeout_seconds=60), int) for job_id in waiting[:50])
    report = verify_store(last)
    assert report.ok, report.findings
