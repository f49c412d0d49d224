"""No wake-up is lost: whatever a job may wait for races with its putting away, stepped in both orders.

A job that is put away and waits must be claimable once what it waits for has come, whether that came before the run was
put away (putting away looks again, under the job's lock) or after (the wake-up finds it put away), by one writer or two,
in one batch or two. And the story must fit: the job's events, folded, lead to its row's state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from relight.conformance.world import ANN, Engine, StoreFactory, World, Writer
from relight.core import events as ev
from relight.core.commands import Command, JobRef
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.commands.engines import WakeDueJobs
from relight.core.flow import digest
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import JobState, StepKind


def folded(world: World, job: JobRef) -> JobState | None:
    """Return the state that a job's events lead to."""
    state = None
    for event in world.snapshot(job).events:
        state = ev.fold(state, event.type, ev.parse(event.type, event.payload))
    return state


def put_away_command(engine: Engine, run: JobRef, question: str | None = None) -> Command:
    """Return what puts a run away: for a person when only a question is open, else as a waiting job."""
    return engine.putting_away(run) if question is None else engine.awaiting_user(run, question)


@dataclass
class Race:
    """A running job that waits, what puts it away, and what it waits for."""

    world: World
    engine: Engine
    client: Writer
    run: JobRef
    put_away: Command
    arrival: Command
    arrives_from: Writer
    question: str | None = None

    def settle(self) -> None:
        """Put the run away if that was refused because something had come: as a job that may go on at once."""
        if self.world.job(self.run).state is JobState.RUNNING:
            self.engine.put_away(self.run, ready_at=self.world.clock.now_ms())

    def assert_awake(self) -> None:
        """The job may be claimed now, and its story says the same."""
        job = self.world.job(self.run)
        assert job.state is JobState.QUEUED
        assert job.claimable and job.ready_at is not None and job.ready_at <= self.world.clock.now_ms()
        assert folded(self.world, self.run) is JobState.QUEUED
        with self.world.store.reading() as reads:
            now = self.world.clock.now_ms()
            assert job.job_id in reads.claimable_ids(job.queue, [job.kind], now, 1_000_000)
        assert self.world.job(self.engine.claim(self.run)).state is JobState.RUNNING


def _signal(world: World) -> Race:
    engine, client = world.open_engine(), world.client()
    run = engine.run_new()
    engine.wait(run, "go#0", StepKind.SIGNAL, "go")
    return Race(world, engine, client, run, engine.putting_away(run), client.signal_command(run, "go"), client)


def _decision(world: World) -> Race:
    engine, client = world.open_engine(), world.client()
    run = engine.run_new()
    question = engine.ask(run)
    away = engine.awaiting_user(run, question)
    return Race(world, engine, client, run, away, client.answer_command(run, question), client, question)


def _decision_among_other_waits(world: World) -> Race:
    race = _decision(world)
    race.engine.wait(race.run, "go#0", StepKind.SIGNAL, "go")
    race.put_away = race.engine.putting_away(race.run)
    return race


def _question_timed_out(world: World) -> Race:
    engine, client = world.open_engine(), world.client()
    run = engine.run_new()
    due = world.clock.now_ms() + 1000
    question = engine.ask(run, expires_at=due)
    away = engine.awaiting_user(run, question, ready_at=due)
    world.clock.advance(999)
    arrival = cs.QuestionTimedOut(job=run, decision_id=question, who=engine.who)
    return Race(world, engine, client, run, away, arrival, engine, question)


def _child(world: World) -> tuple[Race, JobRef]:
    engine, client = world.open_engine(), world.client()
    run = engine.run_new()
    child = engine.start_child(run)
    engine.wait(run, "child#0", StepKind.CHILD_RESULT, child.job_id)
    return Race(world, engine, client, run, engine.putting_away(run), client.signal_command(run, "x"), engine), child


def _child_ends(state: JobState) -> Callable[[World], Race]:
    def build(world: World) -> Race:
        race, child = _child(world)
        race.arrival = race.engine.finishing(race.engine.claim(child), state)
        return race

    return build


def _child_ended_by_force(code: str) -> Callable[[World], Race]:
    def build(world: World) -> Race:
        race, child = _child(world)
        race.arrival, race.arrives_from = race.client.end_command(child, code, force=True), race.client
        return race

    return build


def _child_poisoned(world: World) -> Race:
    race, child = _child(world)
    owner = world.open_engine("owner")
    owner.claim(child)
    race.engine.recover(owner)
    race.arrival = race.engine.poisoning(child)
    return race


def _asked_to_end(code: str, build: Callable[[World], Race]) -> Callable[[World], Race]:
    def asked(world: World) -> Race:
        race = build(world)
        race.arrival, race.arrives_from = race.client.end_command(race.run, code), race.client
        return race

    return asked


RACES: dict[str, Callable[[World], Race]] = {
    "signal": _signal,
    "decision": _decision,
    "decision among other waits": _decision_among_other_waits,
    "question timed out": _question_timed_out,
    "child completed": _child_ends(JobState.COMPLETED),
    "child completed with issues": _child_ends(JobState.COMPLETED_WITH_ISSUES),
    "child failed": _child_ends(JobState.FAILED),
    "child cancelled": _child_ends(JobState.CANCELLED),
    "child cancelled by force": _child_ended_by_force("cancel"),
    "child failed by force": _child_ended_by_force("fail"),
    "child poisoned": _child_poisoned,
    "cancel while it waits": _asked_to_end("cancel", _signal),
    "cancel while it asks": _asked_to_end("cancel", _decision),
    "deadline while it asks": _asked_to_end("deadline", _decision),
}
"""What may come while a run is being put away."""

every_race = pytest.mark.parametrize("build", list(RACES.values()), ids=list(RACES))


@every_race
def test_what_comes_before_the_putting_away_is_seen_by_it(
    store_factory: StoreFactory, build: Callable[[World], Race]
) -> None:
    with World(store_factory) as world:
        race = build(world)
        race.arrives_from.do(race.arrival)
        [refused] = race.engine.outcomes(race.put_away)
        assert refused is None or (isinstance(refused, Conflict) and race.question is not None)
        race.settle()
        race.assert_awake()


@every_race
def test_what_comes_after_the_putting_away_wakes_the_job(
    store_factory: StoreFactory, build: Callable[[World], Race]
) -> None:
    with World(store_factory) as world:
        race = build(world)
        race.engine.do(race.put_away)
        assert not world.job(race.run).claimable
        race.arrives_from.do(race.arrival)
        race.assert_awake()


@every_race
@pytest.mark.parametrize("arrival_first", [True, False])
def test_both_in_one_batch_end_as_one_after_the_other(
    store_factory: StoreFactory, build: Callable[[World], Race], arrival_first: bool
) -> None:
    with World(store_factory) as world:
        race = build(world)
        both = [race.arrival, race.put_away] if arrival_first else [race.put_away, race.arrival]
        race.engine.outcomes(*both)
        race.settle()
        race.assert_awake()


def test_a_timer_that_ran_out_before_the_putting_away_is_seen_by_it(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        due = world.clock.now_ms() + 1000
        engine.wait(run, "sleep#0", StepKind.SLEEP, until=due)
        world.clock.advance(1000)
        engine.put_away(run, "sleeping", ready_at=due)
        assert world.job(run).claimable
        engine.claim(run)


def test_a_timer_wakes_its_job_at_its_time_and_not_before(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        due = world.clock.now_ms() + 1000
        engine.wait(run, "sleep#0", StepKind.SLEEP, until=due)
        engine.put_away(run, "sleeping", ready_at=due)
        world.clock.advance(999)
        engine.wake_due()
        assert not world.job(run).claimable
        [refused] = engine.outcomes(engine.claiming(run))
        assert isinstance(refused, Conflict)
        world.clock.advance(1)
        engine.wake_due()
        assert world.job(run).claimable
        engine.claim(run)


def test_of_two_looks_at_the_clock_in_one_batch_the_later_counts(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.put_away(run, "sleeping", ready_at=world.clock.now_ms() + 1000)
        world.clock.advance(999)
        first = engine.journal.put(WakeDueJobs())
        world.clock.advance(1)
        second = engine.journal.put(WakeDueJobs())
        engine.pump()
        assert (first.error, second.error) == (None, None)
        assert world.job(run).claimable


def test_what_nobody_waits_for_wakes_nobody(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        race = _signal(world)
        race.engine.do(race.put_away)
        other = race.client.submit()
        race.client.signal(race.run, "stop")
        race.client.signal(other, "go")
        assert not world.job(race.run).claimable


def test_a_message_that_was_read_wakes_nobody_again(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        run = engine.run_new()
        signal_id = client.signal(run, "go")
        engine.do(
            ct.ConsumeSignal(
                job=run,
                step_key=StepKey("go#0"),
                signal_id=signal_id,
                name="go",
                payload_hash=digest("1"),
                outcome="1",
                fresh=True,
            )
        )
        engine.wait(run, "go#1", StepKind.SIGNAL, "go")
        engine.put_away(run)
        assert not world.job(run).claimable


@pytest.mark.parametrize("names", [("go", "note"), ("note", "go"), ("note", "go", "more")])
def test_a_wake_up_is_not_lost_among_other_messages_of_one_batch(
    store_factory: StoreFactory, names: tuple[str, ...]
) -> None:
    with World(store_factory) as world:
        race = _signal(world)
        race.engine.do(race.put_away)
        tickets = []
        for name in names:
            world.clock.advance(1)
            tickets.append(race.client.journal.put(race.client.signal_command(race.run, name)))
        race.client.pump()
        assert [ticket.error for ticket in tickets] == [None] * len(names)
        race.assert_awake()


def test_a_question_among_other_waits_is_answered_together_with_a_message(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        race = _decision(world)
        race.engine.do(race.put_away)
        first = race.client.journal.put(race.arrival)
        world.clock.advance(1)
        second = race.client.journal.put(race.client.signal_command(race.run, "note"))
        race.client.pump()
        assert (first.error, second.error) == (None, None)
        race.assert_awake()


def test_a_mismatched_job_stays_with_its_operator_whatever_arrives(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        race = _signal(world)
        race.arrives_from.do(race.arrival)
        race.engine.mismatch(race.run)
        assert world.job(race.run).state is JobState.AWAITING_USER
        race.client.signal(race.run, "go")
        assert world.job(race.run).state is JobState.AWAITING_USER
        assert folded(world, race.run) is JobState.AWAITING_USER


def test_a_message_to_a_stalled_job_is_there_when_it_is_resumed(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        race = _signal(world)
        second = world.open_engine("second")
        second.recover(race.engine)
        race.client.do(race.arrival)
        assert world.job(race.run).state is JobState.STALLED
        second.resume_by_policy(race.run)
        second.claim(race.run)
        with world.store.reading() as reads:
            unread = reads.first_unread(race.run.job_id, "go")
        assert unread is not None and unread.payload == "1"


def test_messages_of_one_name_are_read_first_in_first_out_and_once(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        run = engine.run_new()
        sent = [client.signal(run, "go", str(n)) for n in range(3)]
        read = []
        for n in range(3):
            with world.store.reading() as reads:
                message = reads.first_unread(run.job_id, "go")
            assert message is not None
            read.append(message.signal_id)
            take = ct.ConsumeSignal(
                job=run,
                step_key=StepKey(f"go#{n}"),
                signal_id=message.signal_id,
                name="go",
                payload_hash=digest("1"),
                outcome=message.payload or "",
                fresh=True,
            )
            again = ct.ConsumeSignal(
                **{field: getattr(take, field) for field in take.__struct_fields__} | {"step_key": StepKey(f"b#{n}")}
            )
            assert [error is None for error in engine.outcomes(take, again)] == [True, False]
        assert read == sent


def test_a_message_with_a_key_is_taken_once(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        job, other = client.submit(), client.submit()
        client.signal(job, "go", key="k")
        for again in (client.signal_command(job, "go", key="k"), client.signal_command(job, "go", "2", key="k")):
            [error] = client.outcomes(again)
            assert isinstance(error, Conflict)
        client.signal(job, "stop", key="k")
        client.signal(other, "go", key="k")
        assert [s.name for s in world.snapshot(job).signals] == ["go", "stop"]


def test_a_question_is_answered_once_and_not_after_its_time(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        run = engine.run_new()
        due = world.clock.now_ms() + 1000
        early, late = engine.ask(run, "ask#0", due), engine.ask(run, "ask#1", due)
        world.clock.advance(999)
        client.answer(run, early)
        [twice] = client.outcomes(client.answer_command(run, early, "no"))
        assert isinstance(twice, Conflict)
        world.clock.advance(1)
        [after] = client.outcomes(client.answer_command(run, late))
        assert isinstance(after, Conflict)
        given, open_still = world.snapshot(run).decisions
        assert (given.state, given.choice, given.by) == ("given", "yes", ANN.id)
        assert (open_still.state, open_still.choice) == ("open", None)
        engine.do(ct.ExpireDecision(job=run, step_key=StepKey("ask#1"), decision_id=late, outcome="null"))
        assert world.snapshot(run).decisions[1].state == "expired"
