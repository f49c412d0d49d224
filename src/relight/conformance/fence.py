"""Who may write: a writer whose row is live, with the next batch number, and nobody else.

The fence, the batch number and the chain's head are one row, and moving it is the first thing a batch does. So a zombie's
batch is refused whole, a batch is applied once or not at all, and the head on disk is always the last event's.
"""

from __future__ import annotations

import pytest

from relight.conformance.world import Engine, StoreFactory, World, Writer
from relight.core.chain import EventRow, Head, check
from relight.core.commands.engines import CloseWriterNow, RenewLease
from relight.errors import Conflict, Fenced
from relight.model import EngineState, EventRecord, Role, Verdict
from relight.store.journal import Journal
from relight.store.store import Batch, Refused

FENCES = ["dead", "silent", "stopped"]


def fence(world: World, engine: Engine, how: str) -> None:
    """Take an engine's right to write."""
    if how == "stopped":
        engine.store.apply(engine.batch_of(CloseWriterNow(engine_id=engine.id)))
    else:
        world.open_engine("judge").judge(engine, Verdict.SILENT if how == "silent" else Verdict.DEAD)


def ends(world: World, writer: Writer) -> tuple[int, int, str, list[EventRecord]]:
    """Return a writer's batch number, head and events."""
    row = world.writer_row(writer)
    return row.batch_seq, row.head_seq, row.head_hash, world.told_by(writer)


def assert_refused(world: World, writer: Writer, batch: Batch) -> None:
    """The batch is refused, and of its writer nothing has changed."""
    before = ends(world, writer)
    with pytest.raises(Fenced):
        writer.store.apply(batch)
    assert ends(world, writer) == before


@pytest.mark.parametrize("how", FENCES)
def test_a_fenced_writer_s_batch_is_refused_whole(store_factory: StoreFactory, how: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run, other = engine.run_new(), engine.submit()
        engine.begin(run)
        new = engine.submission()
        batch = engine.batch_of(engine.finishing_step(run), new, engine.claiming(other))
        fence(world, engine, how)
        before = [world.snapshot(job) for job in (run, other)]
        late = engine.batch_of(engine.finishing_step(run), new, engine.claiming(other))
        for each in (batch, late):
            assert_refused(world, engine, each)
        assert [world.snapshot(job) for job in (run, other)] == before
        assert world.find(new.job_id) is None


@pytest.mark.parametrize("how", FENCES)
def test_a_fenced_journal_tells_everyone_who_waits_and_writes_no_more(store_factory: StoreFactory, how: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        told: list[str] = []
        engine.journal.on_fenced = lambda: told.append("fenced")
        waiting = [engine.journal.put(c) for c in (engine.beginning(run), engine.submission(), engine.finishing(run))]
        fence(world, engine, how)
        before = ends(world, engine)
        engine.pump()
        assert all(isinstance(ticket.error, Fenced) for ticket in waiting)
        with pytest.raises(Fenced):
            engine.journal.put(engine.submission())
        assert not engine.journal.pump()
        assert told == ["fenced"]
        assert ends(world, engine) == before


def test_a_fence_is_seen_by_the_very_next_batch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, judge = world.open_engine(), world.open_engine("judge")
        run = engine.run_new()
        engine.begin(run)
        judge.judge(engine)
        [error] = engine.outcomes(engine.finishing_step(run))
        assert isinstance(error, Fenced)
        assert world.step(run, "fetch#0").outcome is None


@pytest.mark.parametrize("skip", [-2, -1, 1, 2])
def test_a_batch_number_out_of_its_order_is_refused(store_factory: StoreFactory, skip: int) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        client.submit()
        command = client.submission()
        assert_refused(world, client, client.batch_of(command, skip=skip))
        assert world.find(command.job_id) is None
        client.store.apply(client.batch_of(command))
        assert world.job(command.job_id).state == "queued"


def test_a_batch_is_applied_once(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        command = client.submission()
        batch = client.batch_of(command)
        client.store.apply(batch)
        assert_refused(world, client, batch)
        assert world.event_types(command.job_id) == ["job_accepted"]


def test_a_writer_without_a_row_may_not_write(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client, stranger = world.client(), world.client()
        client.submit()
        command = stranger.submission()
        known = client.batch_of(command)
        with pytest.raises(Fenced):
            stranger.store.apply(Batch(stranger.id, 1, known.head, known.rows, known.events))
        assert world.find(command.job_id) is None


def test_a_writer_opens_once(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        before = ends(world, client)
        copy: Journal = client.new_journal(world.open_store())
        command = client.submission()
        ticket = copy.put(command)
        while copy.pump():
            pass
        assert ticket.error is not None
        assert isinstance(ticket.error, Conflict)
        assert ends(world, client) == before
        assert world.find(command.job_id) is None


def test_the_head_on_disk_is_the_last_event_of_a_whole_chain(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run)
        [refused] = engine.outcomes(engine.finishing_step(run, "never-begun#0"))
        assert isinstance(refused, Conflict)
        engine.finish_step(run)
        engine.outcomes(*(engine.submission() for _ in range(5)), engine.finishing_step(run), engine.submission())
        engine.finish(run)
        batch_seq, head_seq, head_hash, told = ends(world, engine)
        assert [event.writer_seq for event in told] == list(range(1, head_seq + 1))
        rows = [EventRow(*(getattr(event, name) for name in EventRow.__struct_fields__)) for event in told]
        assert list(check(rows, until=Head(head_seq, head_hash))) == []
        assert told[-1].hash == head_hash
        assert batch_seq == engine.journal._seq
        assert {(event.writer_id, event.engine_id) for event in told} == {(engine.id, engine.id)}


def test_a_refused_batch_takes_its_head_back(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        before = ends(world, engine)
        with pytest.raises(Refused):
            engine.store.apply(engine.batch_of(engine.submission(), engine.finishing_step(run)))
        assert ends(world, engine) == before


def test_a_batch_without_events_moves_the_number_and_leaves_the_head(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        before = ends(world, engine)
        world.clock.advance(1000)
        engine.do(RenewLease(engine_id=engine.id, lease_ms=5000))
        after = ends(world, engine)
        assert after == (before[0] + 1, *before[1:])
        row = world.writer_row(engine)
        assert (row.beat_at, row.lease_until) == (world.clock.now_ms(), world.clock.now_ms() + 5000)


def test_the_last_of_several_beats_counts(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        for _ in range(3):
            world.clock.advance(1000)
            engine.journal.put(RenewLease(engine_id=engine.id, lease_ms=5000))
        engine.pump()
        assert world.writer_row(engine).beat_at == world.clock.now_ms()


def test_a_new_writer_names_the_heads_that_nobody_has_named(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        first, second, third = world.client(), world.client(), world.client()
        first.submit()
        with world.store.reading() as reads:
            assert (first.id, 2, world.writer_row(first).head_hash) in reads.unnamed_heads()
        second.submit()
        opened = world.told_by(second)[0]
        assert opened.type == "writer_opened"
        assert first.id in opened.payload
        with world.store.reading() as reads:
            assert first.id not in [writer for writer, _, _ in reads.unnamed_heads()]
        first.submit()
        third.submit()
        assert first.id in world.told_by(third)[0].payload


def test_a_verdict_takes_effect_only_on_what_was_judged(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, judge, second = world.open_engine(), world.open_engine("judge"), world.open_engine("second")
        verdict = judge.judging(engine)
        late = second.judging(engine)
        world.clock.advance(1)
        engine.beat()
        [beaten] = judge.outcomes(verdict)
        assert isinstance(beaten, Conflict)
        assert world.writer_row(engine).state is EngineState.LIVE
        [oneself] = engine.outcomes(engine.judging(engine))
        assert isinstance(oneself, Conflict)
        judge.judge(engine)
        row = world.writer_row(engine)
        assert (row.state, row.verdict, row.evidence) == (EngineState.DEAD, Verdict.DEAD, '{"reason":"test"}')
        for again in (late, second.judging(engine, source=EngineState.LIVE)):
            [error] = second.outcomes(again)
            assert isinstance(error, Conflict)
        assert world.writer_row(engine) == row


def test_a_silent_engine_may_turn_out_dead_and_a_stopped_one_too(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        silent, stopped, judge = world.open_engine(), world.open_engine(), world.open_engine("judge")
        judge.judge(silent, Verdict.SILENT)
        assert world.writer_row(silent).state is EngineState.SILENT
        judge.judge(silent)
        stopped.close()
        assert world.writer_row(stopped).state is EngineState.STOPPED
        judge.judge(stopped)
        assert {world.writer_row(engine).state for engine in (silent, stopped)} == {EngineState.DEAD}


@pytest.mark.parametrize("again", [Verdict.DEAD, Verdict.LEASE_EXPIRED, Verdict.SILENT])
def test_what_is_held_dead_is_not_judged_again_and_keeps_its_evidence(
    store_factory: StoreFactory, again: Verdict
) -> None:
    with World(store_factory) as world:
        engine, judge, second = world.open_engine(), world.open_engine("judge"), world.open_engine("second")
        judge.judge(engine)
        row = world.writer_row(engine)
        world.clock.advance(1)
        [error] = second.outcomes(second.judging(engine, again, evidence={"reason": "other"}))
        assert isinstance(error, Conflict)
        assert world.writer_row(engine) == row


def test_a_silent_engine_is_not_called_silent_twice(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, judge = world.open_engine(), world.open_engine("judge")
        judge.judge(engine, Verdict.SILENT)
        row = world.writer_row(engine)
        [error] = judge.outcomes(judge.judging(engine, Verdict.SILENT, evidence={"reason": "other"}))
        assert isinstance(error, Conflict)
        assert world.writer_row(engine) == row


def test_a_closed_writer_is_stopped_and_says_so(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        client.submit()
        client.close()
        engine.close()
        assert world.told_by(engine)[-1].type == "engine_stopped"
        for writer, role in ((engine, Role.ENGINE), (client, Role.CLIENT)):
            row = world.writer_row(writer)
            assert (row.role, row.state, row.ended_at) == (role, EngineState.STOPPED, world.clock.now_ms())
