"""Tokens and published values: one answer counts, whoever gives it, and only in time; the latest value stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relight.conformance.waits import Race
from relight.conformance.world import Engine, StoreFactory, World, Writer
from relight.core.commands import Command, JobRef
from relight.core.commands import outside as co
from relight.core.commands import steps as ct
from relight.core.flow import digest
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import StepKind, TokenRecord

MADE = StepKey("external:scan#0")
WAIT = StepKey("wait:scan#0")


def make_token(engine: Engine, run: JobRef, **more: Any) -> str:
    """Hand out a token in a run; return it."""
    token = f"ext_{engine.world.ids.token()}"
    values: dict[str, Any] = {
        "job": run,
        "step_key": MADE,
        "token": token,
        "name": "scan",
        "type": None,
        "expires_at": None,
        "heartbeat_ms": None,
        "outcome": f'"{token}"',
    }
    engine.do(co.MakeToken(**(values | more)))
    return token


def completing(writer: Writer, run: JobRef, token: str, value: str = "1") -> Command:
    """Return the command that completes a token."""
    return co.CompleteToken(
        job=run,
        step_key=MADE,
        token=token,
        name="scan",
        value=value,
        value_hash=digest(value),
        value_bytes=len(value),
        who=writer.who,
    )


def failing(writer: Writer, run: JobRef, token: str) -> Command:
    """Return the command that fails a token."""
    return co.FailToken(job=run, step_key=MADE, token=token, name="scan", error="no", who=writer.who)


def expiring(run: JobRef, token: str) -> Command:
    """Return the command by which the run that waits notices that a token's time is up."""
    return co.ExpireToken(
        job=run, step_key=WAIT, token=token, token_key=MADE, name="scan", reason="timeout", outcome="null"
    )


def publishing(run: JobRef, value: str, key: str = "publish:part#0", *, recorded: bool = True) -> Command:
    """Return the command that publishes a value."""
    return co.PublishValue(
        job=run,
        step_key=StepKey(key),
        name="part",
        value=value,
        value_hash=digest(value),
        value_bytes=len(value),
        recorded=recorded,
    )


def read_token(world: World, token: str) -> TokenRecord:
    """Return a token's row."""
    with world.store.reading() as reads:
        row = reads.token(token)
    assert row is not None
    return row


def waiting(world: World, **more: Any) -> tuple[Engine, Writer, JobRef, str]:
    """Return a running job that waits for a token."""
    engine, client = world.open_engine(), world.client()
    run = engine.run_new()
    token = make_token(engine, run, **more)
    engine.wait(run, WAIT, StepKind.EXTERNAL, token)
    return engine, client, run, token


def race_of(world: World, answer: str) -> Race:
    """Return a race between an answer and the putting away of the run that waits for it."""
    engine, client, run, token = waiting(world)
    arrival = completing(client, run, token) if answer == "completed" else failing(client, run, token)
    return Race(world, engine, client, run, engine.putting_away(run), arrival, client)


every_answer = pytest.mark.parametrize("answer", ["completed", "failed"])


@every_answer
@pytest.mark.parametrize("order", ["before", "after", "one batch"])
def test_an_answer_from_outside_wakes_its_job_whenever_it_comes(
    store_factory: StoreFactory, answer: str, order: str
) -> None:
    with World(store_factory) as world:
        race = race_of(world, answer)
        match order:
            case "before":
                race.client.do(race.arrival)
                race.engine.do(race.put_away)
            case "after":
                race.engine.do(race.put_away)
                assert not world.job(race.run).claimable
                race.client.do(race.arrival)
            case _:
                race.engine.outcomes(race.put_away, race.arrival)
                race.settle()
        race.assert_awake()


@every_answer
def test_of_two_answers_the_first_counts(store_factory: StoreFactory, answer: str) -> None:
    with World(store_factory) as world:
        engine, client, run, token = waiting(world)
        other = world.client()
        client.do(completing(client, run, token, "1") if answer == "completed" else failing(client, run, token))
        before = read_token(world, token)
        assert (before.state, before.by) == (answer, client.who.id)
        for late in (completing(other, run, token, "2"), failing(other, run, token), expiring(run, token)):
            [error] = (engine if isinstance(late, co.ExpireToken) else other).outcomes(late)
            assert isinstance(error, Conflict)
        [beat] = other.outcomes(co.BeatTokenNow(job=run, token=token, note="still"))
        assert isinstance(beat, Conflict)
        assert read_token(world, token) == before


def test_of_two_answers_in_one_batch_one_counts(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        _, client, run, token = waiting(world)
        outcomes = client.outcomes(*(completing(client, run, token, str(n)) for n in range(3)))
        assert [error is None for error in outcomes] == [True, False, False]
        assert read_token(world, token).value == "0"
        assert world.event_types(run).count("external_completed") == 1


def test_an_answer_counts_until_exactly_its_time(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        due = world.clock.now_ms() + 1000
        engine, client, run, token = waiting(world, expires_at=due)
        early = make_token(engine, run, step_key=StepKey("external:scan#1"), expires_at=due)
        world.clock.advance(999)
        [not_yet] = engine.outcomes(expiring(run, token))
        assert isinstance(not_yet, Conflict)
        client.do(completing(client, run, early))
        world.clock.advance(1)
        [late] = client.outcomes(completing(client, run, token))
        assert isinstance(late, Conflict)
        engine.do(expiring(run, token))
        assert read_token(world, token).state == "expired"


def test_a_missed_heartbeat_expires_a_token_and_one_that_came_does_not(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client, run, token = waiting(world, heartbeat_ms=1000)
        world.clock.advance(600)
        client.do(co.BeatTokenNow(job=run, token=token, note="half"), co.BeatTokenNow(job=run, token=token, note=None))
        row = read_token(world, token)
        assert (row.note, row.beat_at) == ("half", world.clock.now_ms())
        world.clock.advance(999)
        [not_yet] = engine.outcomes(expiring(run, token))
        assert isinstance(not_yet, Conflict)
        world.clock.advance(1)
        engine.do(expiring(run, token))
        assert read_token(world, token).state == "expired"


def test_a_job_that_has_ended_takes_no_answer(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client, run, token = waiting(world)
        engine.finish(run)
        for late in (completing(client, run, token), co.BeatTokenNow(job=run, token=token, note=None)):
            [error] = client.outcomes(late)
            assert isinstance(error, Conflict)
        assert read_token(world, token).state == "open"


def test_a_token_is_made_once_and_only_by_a_run_that_runs(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, _, run, token = waiting(world)
        again = co.MakeToken(
            job=run,
            step_key=StepKey("external:scan#1"),
            token=token,
            name="scan",
            type=None,
            expires_at=None,
            heartbeat_ms=None,
            outcome="null",
        )
        [twice] = engine.outcomes(again)
        assert isinstance(twice, Conflict)
        engine.finish(run)
        with pytest.raises(Conflict):
            make_token(engine, run, step_key=StepKey("external:scan#2"))
        assert [row.token for row in world.snapshot(run).tokens] == [token]


def test_a_message_wakes_a_job_that_waits_for_one_of_several(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        run = engine.run_new()
        also = ((StepKey("signal:go|stop#0!1"), "stop"),)
        engine.do(msgspec.structs.replace(engine.waiting(run, "signal:go|stop#0", StepKind.SIGNAL, "go"), also=also))
        engine.put_away(run)
        client.signal(run, "note")
        assert not world.job(run).claimable
        client.signal(run, "stop")
        assert world.job(run).claimable
        with world.store.reading() as reads:
            first = reads.first_unread(run.job_id, "go", "stop")
            assert [step.step_key for step in reads.waiting_for(run.job_id, "stop")] == ["signal:go|stop#0!1"]
        assert first is not None and first.name == "stop"


def test_the_latest_published_value_stands_also_within_one_batch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.do(publishing(run, "1"))
        engine.do(publishing(run, "2", "publish:part#1"), publishing(run, "3", "fetch#0", recorded=False))
        with world.store.reading() as reads:
            assert reads.published(run.job_id, "part") == "3"
            assert reads.published(run.job_id, "other") is None
        assert world.event_types(run).count("published") == 3


def test_a_run_that_has_ended_publishes_nothing_and_a_recorded_value_is_published_once(
    store_factory: StoreFactory,
) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.do(publishing(run, "1"))
        [again] = engine.outcomes(publishing(run, "2"))
        assert isinstance(again, Conflict)
        engine.finish(run)
        for recorded in (True, False):
            [late] = engine.outcomes(publishing(run, "3", "publish:part#9", recorded=recorded))
            assert isinstance(late, Conflict)
        with world.store.reading() as reads:
            assert reads.published(run.job_id, "part") == "1"


def test_a_check_that_was_cut_is_in_doubt_and_keeps_the_state_before_it(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, owner = world.open_engine(), world.open_engine("owner")
        run = owner.run_new()
        owner.begin(run, "poll:look#0", kind=StepKind.POLL)
        owner.do(_poll_again(run, "5"))
        owner.begin(run, "poll:look#0", 2, kind=StepKind.POLL)
        owner.do(_noting(run, "page 7"))
        engine.recover(owner)
        step = world.step(run, "poll:look#0")
        assert (step.state, step.outcome, step.try_number, step.note) == ("in_doubt", "5", 2, "page 7")


def _poll_again(run: JobRef, outcome: str) -> Command:
    return ct.PollAgain(job=run, step_key=StepKey("poll:look#0"), try_number=1, outcome=outcome, until=1)


def _noting(run: JobRef, note: str) -> Command:
    return ct.ReportProgress(job=run, progress="{}", notes=((StepKey("poll:look#0"), note),))
